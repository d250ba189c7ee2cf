"""`flover bench lora`: what an iteration costs with different numbers of LoRA adapters in one batch.

One engine runs batches of equal requests, with no adapter, with one, with several dealt out evenly, in turns; only
iterations in which every row generates count. The ratio is the median over rounds, each against its own batch without
adapters, so that other load on the machine meets all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
from rich.table import Table

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.lora import LoraAdapter, cache_salt
from flover.model.adapters import adapted_weights
from flover.model.config import ModelConfig
from flover.model.families import Family
from flover.model.placement import expected_tensors
from flover.request import GREEDY, Request, SamplingParams
from flover.source.peft import find_adapter

PROMPT_LEN = 8
ADAPTER_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""Types of files, and safetensors' names of them."""
SPREAD = 0.01
"""Of the numbers of random adapters, so that none makes activations large."""


@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Rows of a batch, numbers of different adapters among them, ranks and type of these, rounds, and iterations of a
    batch."""

    rows: int = 32
    adapters: tuple[int, ...] = (0, 1, 8, 32)
    rank: int = 8
    adapter_dtype: str = "bfloat16"
    rounds: int = 5
    steps: int = 24


@dataclass(frozen=True, slots=True)
class LoraResult:
    """An iteration with so many different adapters: milliseconds, and against one without, medians over rounds."""

    num_adapters: int
    step_ms: float
    kernel_ms: float
    ratio: float


def write_adapter(folder: Path, family: Family, config: ModelConfig, rank: int, dtype: str, seed: int) -> Path:
    """A random adapter of every linear that can have one, in a file of this type."""
    folder.mkdir()
    rng, linears = np.random.default_rng(seed), adapted_weights(config)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for name, placements in expected_tensors(family, config).items():
        place = placements[0]
        if len(placements) > 1 or place.parameter not in linears:
            continue
        module = f"base_model.model.{family.prefix}{name.removesuffix('.weight')}"
        for end, shape in (("lora_A", (rank, place.columns[0])), ("lora_B", (place.stop - place.start, rank))):
            drawn = rng.standard_normal(shape, dtype=np.float32) * np.float32(SPREAD)
            tensors[f"{module}.{end}.weight"] = drawn
    _write_tensors(folder / "adapter_model.safetensors", tensors, dtype)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def _write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[np.float32]], dtype: str) -> None:
    """A file of safetensors. numpy, and so the format's own library for it, has no bfloat16: its bits are the upper
    half of float32's."""
    header, stored, size = {}, [], 0
    for name, numbers in tensors.items():
        kept = numbers.view(np.uint16)[:, 1::2] if dtype == "bfloat16" else numbers.astype(dtype)
        stored.append(kept.tobytes())
        place = [size, size := size + len(stored[-1])]
        header[name] = {"dtype": ADAPTER_DTYPES[dtype], "shape": list(numbers.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *stored]))


def measure_adapters(
    config: EngineConfig,
    options: LoraOptions,
    folder: Path,
    describe: Callable[[EngineConfig], tuple[Family, ModelConfig]],
    build: Callable[[EngineConfig], Engine],
    ended: Callable[[], None],
) -> list[LoraResult]:
    """All numbers of adapters, in turns; `describe` reads the model, `build` loads it, and random adapters are written
    into `folder`."""
    family, model = describe(config)
    made = [
        find_adapter(
            str(seed), str(write_adapter(folder / str(seed), family, model, options.rank, options.adapter_dtype, seed))
        )
        for seed in range(max(options.adapters))
    ]
    engine = build(config)
    times: dict[int, list[tuple[float, float]]] = {count: [] for count in options.adapters}
    try:
        for turn in range(options.rounds + 1):
            for count in options.adapters:
                found = _run_batch(engine, options, made[:count], f"{turn}-{count}")
                if turn:  # the first reads adapters
                    times[count].append(found)
                ended()
    finally:
        engine.close()
    base = times[options.adapters[0]]
    return [
        LoraResult(
            count,
            1000 * median(step for step, _ in own),
            1000 * median(kernel for _, kernel in own),
            median(step / before for (step, _), (before, _) in zip(own, base, strict=True)),
        )
        for count, own in times.items()
    ]


def _run_batch(engine: Engine, options: LoraOptions, adapters: Sequence[LoraAdapter], name: str) -> tuple[float, float]:
    """Median seconds of an iteration of all rows, and of its kernels."""
    for row in range(options.rows):
        adapter = adapters[row % len(adapters)] if adapters else None
        params = SamplingParams(**GREEDY, max_tokens=options.steps + 2, ignore_eos=True, lora=adapter)
        prompt = [1 + (row + place) % 100 for place in range(PROMPT_LEN)]
        salt = cache_salt("", adapter)
        engine.submit(Request(id=f"{name}-{row}", prompt_ids=prompt, params=params, seed=row, salt=salt))
    steps: list[tuple[float, float]] = []
    while engine.has_work:
        kernels, began = engine.stats().kernel_seconds, time.perf_counter()
        deltas = engine.step()
        seconds = time.perf_counter() - began
        if len(deltas) == options.rows and not any(delta.finish_reason for delta in deltas):
            steps.append((seconds, engine.stats().kernel_seconds - kernels))
    return median(step for step, _ in steps[1:]), median(kernel for _, kernel in steps[1:])


def lora_table(title: str, results: Sequence[LoraResult]) -> Table:
    """One row for each number of adapters."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("adapters", "ms per iteration", "in kernels", "of one without"):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(str(one.num_adapters), f"{one.step_ms:.2f}", f"{one.kernel_ms:.2f}", f"{one.ratio:.3f} x")
    return table
