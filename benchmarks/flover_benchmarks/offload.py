"""`flover bench offload`: the time to the first token of a prompt whose keys and values are computed, in the pool, or
in the host tier.

The pool has room for one prompt and a few pages. In each round a new prompt is computed and asked again (pool), another
one is computed and takes its pages, and the first is asked once more (file), once with the file in the system's memory
and once from the disk. While it is loaded, pages of the other are stored, as in a server whose pool is full.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from rich.table import Table

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.executor.load import load_device
from flover.memory.offload import PageStore
from flover.request import Request, SamplingParams
from flover.service.build import scheduler_config

SPARE_PAGES = 4
SOURCES = ("computed", "pool", "file, cached by the system", "file, from the disk")


@dataclass(frozen=True, slots=True)
class OffloadResult:
    """First tokens of a prompt whose keys and values have this source: median milliseconds, and of computing it."""

    source: str
    ttft_ms: float
    part: float
    loaded_bytes: int


def measure_offload(
    config: EngineConfig, path: str, prompt_len: int, rounds: int, page_bytes: int, progress: Callable[[int], None]
) -> list[OffloadResult]:
    """With the file in the directory `path`. Raises what loading raises."""
    pages = -(-(prompt_len + 1) // config.block_size) + SPARE_PAGES
    config = replace(
        config,
        kv_cache_memory_bytes=(pages + 1) * page_bytes,
        kv_offload_bytes=3 * (rounds + 1) * pages * page_bytes,
        kv_offload_path=path,
    )
    device = load_device(config, lambda *done: None)
    assert device.store is not None, "its size is set"
    engine = Engine(device, scheduler_config(config, device.facts), time.perf_counter)
    rng, most = random.Random(0), device.facts.vocab_size
    times: dict[str, list[float]] = {source: [] for source in SOURCES}
    loaded: dict[str, int] = dict.fromkeys(SOURCES, 0)
    for number in range(rounds + 1):  # the first is not counted
        prompts = [[rng.randrange(3, most) for _ in range(prompt_len)] for _ in range(3)]
        order = (("computed", prompts[0]), ("pool", prompts[0]), ("", prompts[1]), (SOURCES[2], prompts[0]))
        for source, prompt in (*order, ("", prompts[2]), (SOURCES[3], prompts[0])):
            if source == SOURCES[3]:
                _leave_memory(device.store)
            before = engine.stats().offload_loaded_bytes
            seconds = _first_token(engine, prompt)
            if source and number:
                times[source].append(seconds)
                loaded[source] = engine.stats().offload_loaded_bytes - before
        progress(number + 1)
    engine.close()
    computed = median(times["computed"])
    return [OffloadResult(one, 1e3 * median(own), median(own) / computed, loaded[one]) for one, own in times.items()]


def _first_token(engine: Engine, prompt: list[int]) -> float:
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    began = time.perf_counter()
    engine.submit(Request(id="one", prompt_ids=prompt, params=params, seed=0))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - began


def _leave_memory(store: PageStore) -> None:
    """The system forgets what it has of the file."""
    os.fsync(store.file.descriptor)
    os.posix_fadvise(store.file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def offload_table(title: str, results: list[OffloadResult]) -> Table:
    """For people."""
    table = Table("keys and values", "first token, ms", "of computing", "loaded, MB", title=title)
    for one in results:
        table.add_row(one.source, f"{one.ttft_ms:,.0f}", f"{one.part:.3f}", f"{one.loaded_bytes / 1e6:,.0f}")
    return table
