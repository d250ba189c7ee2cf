"""Compile every kernel of ops/cuda for GPUs that are not here, and say what the machine code is like.

    python tools/cuda_kernels.py [--arch 90] [--model llama-3-8b] [--sample]

The decoder runs on tensors without memory (torch's device "meta") under a Triton driver that compiles what is launched,
for one GPU after another, and launches nothing. So what is compiled is what a forward launches, argument by argument.
Registers, local memory and instructions are read with `cuobjdump`, which comes with Triton. Ends with status 1 where a
kernel keeps registers in local memory, where one that streams has narrow loads, where a product has no tensor-core
instruction or does not load ahead what its source says, and where a layer of a generate step takes more than eight
launches.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
from cuda_ahead import bytes_ahead, constants_of, on_the_way
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from flover.bench.presets import PRESETS
from flover.executor.row_cells import FIRST_PAGE, CellMap
from flover.model.batch import Batch
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.decoder import Decoder, Weights
from flover.model.hf_config import read_config
from flover.ops import DType, WeightFormat
from flover.ops.choices import Choices, Draws, Edits
from flover.ops.cuda.choose import choose, logprobs
from flover.ops.cuda.device import new_pages
from flover.ops.cuda.rows import keep_newest, make_batch
from flover.ops.cuda.table import cuda_ops

MOST_LAUNCHES = 8
"""Of a layer in a generate step."""
META = torch.device("meta")
MODELS = ("llama-3-8b", "gpt-j-6b")
PAGE_SIZE = 16
SCHEDULERS = 4
"""Of a multiprocessor; each issues one instruction of a warp in a cycle."""
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TENSOR_CORES = re.compile(r"\b(HMMA|HGMMA|IMMA|IGMMA|QMMA|QGMMA|UTC\w*MMA)\b")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One multiprocessor of a GPU (CUDA C++ Programming Guide, compute capabilities)."""

    name: str
    count: int  # of a GPU
    threads: int
    shared: int  # bytes of a multiprocessor; a block may have 1 KiB less


GPUS = {
    80: Gpu("A100", 108, 2048, 164 * 1024),
    90: Gpu("H100, H200", 132, 2048, 228 * 1024),
    100: Gpu("B200", 148, 2048, 228 * 1024),
    120: Gpu("RTX 5090", 170, 1536, 100 * 1024),
}


@dataclass(slots=True)
class Binary:
    """What Triton made of a kernel, and how it was launched."""

    name: str
    warps: int
    shared: int
    rows: int  # of a product's tile
    ahead: int  # bytes that a program asks for before it needs them
    stages: int
    programs: int = sys.maxsize  # of the launch with the fewest


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel as one GPU has it."""

    name: str
    arch: int
    warps: int
    registers: int
    local: int  # bytes of a thread's registers that are kept in memory
    shared: int
    loads: Counter[int]  # loads from global memory by bytes of a thread
    stores: Counter[int]
    tensor_cores: frozenset[str]
    words: bool  # products of four bytes at once
    asynchronous: int  # bytes that a thread's loads to shared memory have together
    groups: int  # of asynchronous loads, each of which completes as one
    loop: int  # instructions of the longest loop
    rows: int
    ahead: int
    stages: int
    programs: int

    @property
    def resident(self) -> int:
        """Programs that a multiprocessor can have at once."""
        gpu = GPUS[self.arch]
        by_registers = 65536 // (-(-self.registers * 32 // 256) * 256 * self.warps)
        return min(by_registers, gpu.shared // (self.shared + 1024), gpu.threads // (32 * self.warps))

    @property
    def occupancy(self) -> float:
        """Share of a multiprocessor's warps that can be there at once."""
        return self.resident * 32 * self.warps / GPUS[self.arch].threads

    @property
    def in_flight(self) -> int:
        """Bytes that a multiprocessor has on the way in the smallest launch."""
        return int(self.present * on_the_way(self.ahead, self.stages, self.groups))

    @property
    def present(self) -> float:
        """Programs that a multiprocessor has in the smallest launch, which may have less than fit."""
        return min(self.resident, self.programs / GPUS[self.arch].count)

    @property
    def cycles(self) -> float:
        """Cycles in which a multiprocessor issues the instructions for a KiB of weights in the smallest launch, if each
        of its schedulers that has a warp issues one a cycle."""
        of_a_turn = self.ahead / (self.stages - 1) / 1024
        return self.loop * self.warps / of_a_turn / min(SCHEDULERS, self.present * self.warps)

    @property
    def loads_ahead(self) -> bool:
        """Whether the machine code has as many asynchronous loads as it says."""
        return 32 * self.warps * self.asynchronous >= self.ahead

    @property
    def streams(self) -> bool:
        """Whether it reads long rows; the others read a few numbers, from anywhere."""
        return self.name not in ("edit_kernel", "uniforms_kernel", "batch_kernel", "newest_kernel")

    @property
    def line(self) -> str:
        """A row of the table of COLUMNS."""
        widest = max(self.loads, default=0), max(self.stores, default=0)
        cores = ", ".join(sorted(self.tensor_cores)) or "–"
        flight = f"{self.in_flight / 1024:.0f} KiB" if self.ahead else "–"
        columns = self.name, self.arch, self.warps, self.registers, self.local, self.shared, f"{self.occupancy:.0%}"
        return f"| {' | '.join(map(str, (*columns, flight, *widest, cores)))} |"


COLUMNS = (
    *("kernel", "sm", "warps", "registers", "local", "shared", "occupancy", "in flight", "load", "store"),
    "tensor cores",
)


class CompilingDriver:
    """What Triton asks of a GPU's driver. Binaries come to `utils.load_binary`, launches to `launcher_cls`."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.launches: list[str] = []
        self.binaries: dict[bytes, Binary] = {}
        self.newest = Binary("", 0, 0, 0, 0, 0)
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # kernels are kept for each device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": GPUS[self.arch].shared - 1024}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        self.binaries[binary] = self.newest
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        """There is none."""

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """Comes before the binary."""
        values = constants_of(source)
        ahead = bytes_ahead(source, values, metadata.num_stages)
        rows, stages = values.get("BLOCK_ROWS", 0), metadata.num_stages
        made = Binary(metadata.name, metadata.num_warps, metadata.shared, rows, ahead, stages)
        self.newest = made

        def launch(*args: Any) -> None:
            self.launches.append(made.name)
            made.programs = min(made.programs, math.prod(args[:3]))

        return launch


class TorchLaunches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts torch's operations that compute something."""

    FREE = frozenset(("empty", "empty_like", "view", "_unsafe_view", "t", "transpose", "slice", "unsqueeze", "detach"))

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.overloadpacket.__name__ not in self.FREE
        return function(*args, **(kwargs or {}))


def run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@cache
def machine_code(binary: bytes) -> Mapping[str, Any]:
    """What is in it, by the names of `Compiled`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        usage = run([str(CUOBJDUMP), "--dump-resource-usage", str(path)])
        code = run([str(CUOBJDUMP), "-sass", str(path)])
    numbers = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    spilled = len(re.findall(r"\b(?:LDL|STL)\b", code))
    return {
        "registers": numbers["REG"],
        "local": numbers["LOCAL"] + numbers["STACK"] + spilled,
        "loads": widths(re.findall(r"\b(?:LDG|LDGSTS)\.[\w.]+", code)),
        "stores": widths(re.findall(r"\bSTG\.[\w.]+", code)),
        "tensor_cores": frozenset(TENSOR_CORES.findall(code)),
        "words": bool(re.search(r"\bIDP\.4A\b", code)),
        "asynchronous": sum(size * n for size, n in widths(re.findall(r"\bLDGSTS\.[\w.]+", code)).items()),
        "groups": len(re.findall(r"\bLDGDEPBAR\b", code)),
        "loop": longest_loop(code),
    }


def longest_loop(code: str) -> int:
    """Instructions from where a branch leads back to, up to that branch."""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([^;]*);", code)
    index = {int(address, 16): i for i, (address, _) in enumerate(found)}
    longest = 0
    for i, (_, instruction) in enumerate(found):
        target = re.search(r"^BRA\b.*0x([0-9a-f]+)", instruction)
        if target and (first := index.get(int(target[1], 16), i)) < i:
            longest = max(longest, i + 1 - first)
    return longest


def inspect(binary: bytes, made: Binary, arch: int) -> Compiled:
    """A kernel that was compiled and launched."""
    return Compiled(
        name=made.name,
        arch=arch,
        warps=made.warps,
        shared=made.shared,
        rows=made.rows,
        ahead=made.ahead,
        stages=made.stages,
        programs=made.programs,
        **machine_code(binary),
    )


def widths(instructions: Iterable[str]) -> Counter[int]:
    """Bytes of a thread that each of these loads or stores moves."""
    sizes = {"128": 16, "64": 8, "U8": 1, "S8": 1, "U16": 2, "S16": 2}
    return Counter(next((sizes[part] for part in one.split(".") if part in sizes), 4) for one in instructions)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device=META)


def decoder_of(config: ModelConfig, *, batch_invariant: bool, weight_format: WeightFormat = "bfloat16") -> Decoder:
    """With activations in bfloat16, without memory."""
    ops = cuda_ops(META, activations=torch.bfloat16, batch_invariant=batch_invariant)
    matrices, vectors = {}, {}
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 2:
            gated = config.gated and name.endswith("up.weight")
            matrices[name] = ops.new_weight((shape[0], shape[1]), weight_format, gated)
        else:
            vectors[name] = empty(shape, torch.float32)
    return Decoder(config, Weights(matrices, vectors), ops, config.default_max_len)


def batch_of(query_lens: Sequence[int], context: int) -> Batch:
    tokens, rows = sum(query_lens), len(query_lens)
    return Batch(
        token_ids=empty((tokens,), torch.int64),
        positions=empty((tokens,), torch.int64),
        slots=empty((tokens,), torch.int64),
        query_starts=empty((rows + 1,), torch.int32),
        context_lens=empty((rows,), torch.int32),
        page_table=empty((rows, -(-context // PAGE_SIZE)), torch.int32),
        query_lens_host=tuple(query_lens),
        context_lens_host=(context,) * rows,
    )


def fill(batch: Batch) -> None:
    """From the rows that the device keeps, which then get tokens."""
    cells = CellMap(256, batch.page_table.shape[1])
    lines, order = empty((257, cells.stride), torch.int32), empty((batch.num_rows,), torch.int32)
    ragged = None if max(batch.query_lens_host) == 1 else (batch.query_starts, empty((batch.num_tokens,), torch.int32))
    into = batch.token_ids, batch.positions, batch.slots, batch.context_lens, batch.page_table
    make_batch(lines, order, ragged, into, (FIRST_PAGE, PAGE_SIZE))
    keep_newest(lines, order, empty((batch.num_rows,), torch.int64))


class MetaPages:
    """The pool of keys and values, without memory."""

    def __init__(self, config: ModelConfig, dtype: DType) -> None:
        shape = 4096, config.num_kv_heads, PAGE_SIZE, config.head_dim
        self.layers = (new_pages(shape, shape, PAGE_SIZE, dtype, META),) * config.num_layers


def config_of(model: str, layers: int = 1) -> ModelConfig:
    """The model with so many layers."""
    _, config = read_config(PRESETS[model])
    return replace(config, layers=config.layers[:layers])


def forward(
    config: ModelConfig,
    query_lens: Sequence[int],
    context: int,
    *,
    batch_invariant: bool = False,
    kv_dtype: DType = "bfloat16",
) -> int:
    """One forward, and the logits of every row. Returns the number of launches that are not Triton's."""
    decoder = decoder_of(config, batch_invariant=batch_invariant)
    pages: Any = MetaPages(config, kv_dtype)
    batch = batch_of(query_lens, context)
    fill(batch)
    with TorchLaunches() as by_torch:
        hidden = decoder.forward(batch, pages)
        decoder.logits(hidden[: len(query_lens)])
    return int(by_torch.count)


def sample_rows(vocab_size: int, rows: int) -> None:
    """One sampling of rows that edit and draw, and log-probabilities."""
    logits, half = empty((rows, vocab_size), torch.bfloat16), rows // 2

    def draws() -> Draws:
        kinds = torch.float32, torch.float64, torch.int64, torch.float64, torch.int64, torch.int64, torch.int64
        return Draws(*(empty((half,), kind) for kind in kinds))

    rows_of, ids = empty((half,), torch.int64), empty((4000,), torch.int64)
    starts, mask_of = empty((half + 1,), torch.int32), empty((half,), torch.int32)
    words, values = empty((half, -(-vocab_size // 32)), torch.int32), empty((4000,), torch.float32)
    rates = empty((half,), torch.float32)
    lists = starts, ids, starts, ids, values, starts, ids, values
    edits = Edits(rows_of, words, mask_of, *lists, rates, rates, rates)
    chosen, _ = choose(logits, Choices(edits, draws(), draws()))
    logprobs(logits, chosen, 5)


def launches_of_a_layer(model: str, recorder: CompilingDriver) -> int:
    """Launches of a generate step of 32 rows: those of two layers less those of one."""
    counts: list[int] = []
    for layers in (1, 2):
        before = len(recorder.launches)
        by_torch = forward(config_of(model, layers), [1] * 32, 4096)
        counts.append(len(recorder.launches) - before + by_torch)
    return counts[1] - counts[0]


def compile_all(arch: int, models: Sequence[str], sample: bool) -> tuple[list[Compiled], list[str]]:
    """Every kernel of steps that generate, of steps with chunks, and of sampling, or a sample: a step that generates.
    And what must not be."""
    recorder = CompilingDriver(arch)
    driver.set_active(recorder)
    problems = []
    for model in models:
        config = config_of(model)
        launches = launches_of_a_layer(model, recorder)
        if launches > MOST_LAUNCHES:
            problems.append(f"{model}: {launches} launches a layer")
        if not sample:
            forward(config, [1, 1, 510, 1], 4096)
            forward(config, [1] * 32, 4096, batch_invariant=True)
            for query_lens in ([1, 1, 510, 1], [1] * 32):
                forward(config, query_lens, 4096, kv_dtype="int8")
            sample_rows(config.vocab_size, 32)
    kernels = [inspect(binary, made, arch) for binary, made in recorder.binaries.items()]
    return kernels, problems + faults(kernels)


def faults(kernels: Iterable[Compiled]) -> list[str]:
    """What must not be."""
    found = [f"{k.name} on sm_{k.arch}: {k.local} bytes or accesses of local memory" for k in kernels if k.local]
    products = ("product_kernel", "attention_kernel")
    found += [f"{k.name} on sm_{k.arch}: no tensor cores" for k in kernels if k.name in products and not k.tensor_cores]
    found += [f"{k.name} on sm_{k.arch}: does not load {k.ahead} bytes ahead" for k in kernels if not k.loads_ahead]
    narrow = [k for k in kernels if k.streams and not k.loads[16]]
    return found + [f"{k.name} on sm_{k.arch}: no load of 16 bytes a thread" for k in narrow]


def main() -> int:
    parser = argparse.ArgumentParser(description="compile the kernels of a GPU without one")
    parser.add_argument("--arch", type=int, choices=GPUS, action="append")
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--sample", action="store_true", help="a generate step alone")
    args = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    found = []
    for arch in args.arch or GPUS:
        kernels, problems = compile_all(arch, args.model or MODELS, args.sample)
        lines = sorted({k.line for k in kernels})
        print(*lines, sep="\n")
        found += problems
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
