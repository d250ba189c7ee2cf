"""Compile the products of every quantized format for GPUs that are not here, and say what the machine code is like.

    python tools/cuda_quantized.py [--arch 90] [--format q4_k]

As tools/cuda_kernels.py does: a layer of Llama 3 8B at one row, at four, at eight, at 32 where that launches other
kernels, and at a chunk; up of GPT-J 6B, which has a bias and no gate; experts. A row of the table has one format on one
GPU: the most registers of a thread, bytes of local memory (of any kernel) and of shared memory; the least share of a
multiprocessor's warps that fit, and the least of the products' widest loads; of products of a single row, the least KiB
of weights that a multiprocessor has in flight, and the most cycles in which it issues the instructions for a KiB; the
instructions of the products, where IDP is that for words. What has been compiled is kept by Triton (TRITON_CACHE_DIR),
so a run that was cut off goes on where it was. Ends with status 1 where a kernel keeps registers in local memory, where
a product of few rows does not multiply words, another has no tensor-core instruction, or one has no load of 16 bytes a
thread or does not load ahead what its source says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from cuda_kernels import (
    GPUS,
    META,
    Compiled,
    CompilingDriver,
    MetaPages,
    batch_of,
    config_of,
    decoder_of,
    empty,
    inspect,
)
from triton.runtime.driver import driver

from flover.ops import ONE_SCALE, Experts, Routing, WeightFormat
from flover.ops.cuda.launch import WORD_ROWS
from flover.ops.cuda.quantized import QUANTIZED
from flover.ops.cuda.table import cuda_ops

PRODUCTS = "quantized_kernel", "quantized_grouped_kernel", "fp8_kernel", "fp8_grouped_kernel"
UNQUANTIZED = "angles_kernel", "rotary_write_kernel", "gather_kernel", "route_kernel", "weighted_sum_kernel"
"""Kernels that the formats have no part in."""
CONTEXT = 4096
COLUMNS = "format", "sm", "registers", "local", "shared", "occupancy", "load", "in flight", "cycles", "products by"


def launch(weight_format: WeightFormat) -> None:
    """Everything that a format has kernels for."""
    config = config_of("llama-3-8b")
    decoder = decoder_of(config, batch_invariant=False, weight_format=weight_format)
    pages: Any = MetaPages(config, "bfloat16")
    for query_lens in ([1], [1] * 4, [1] * 8, *([[1] * 32] if weight_format in ONE_SCALE else []), [510]):
        decoder.forward(batch_of(query_lens, CONTEXT), pages)
    ops = cuda_ops(META, activations=torch.bfloat16)
    assert ops.prepare is not None
    up, down = (ops.new_weight(shape, weight_format, False) for shape in ((16384, 4096), (4096, 16384)))
    ops.prepare(ops, down).linear(empty((1, 4096), torch.bfloat16), up, empty((16384,), torch.float32), "gelu_tanh")
    gated = ops.new_weight((28672, 4096), weight_format, True)
    down = ops.new_weight((4096, 14336), weight_format, False)
    for tokens in (1, 8, 32):
        x, scores = empty((tokens, 4096), torch.bfloat16), empty((tokens, 2), torch.bfloat16)
        ops.experts(x, scores, Experts([gated] * 2, [down] * 2), Routing(2, True), "silu")


def launch_fp8() -> None:
    """Products with activations in FP8, and of experts."""
    ops = cuda_ops(META, activations=torch.bfloat16, fp8_activations=True)
    gated, down = (ops.new_weight(shape, "fp8_e4m3", shape[0] == 28672) for shape in ((28672, 4096), (4096, 14336)))
    x, scores = empty((8, 4096), torch.bfloat16), empty((8, 2), torch.bfloat16)
    ops.experts(x, scores, Experts([gated] * 2, [down] * 2), Routing(2, True), "silu")
    for shape, halves, kind in (((28672, 4096), True, "silu"), ((4096, 14336), False, None)):
        for rows in (1, 510):
            ops.linear(empty((rows, shape[1]), torch.bfloat16), ops.new_weight(shape, "fp8_e4m3", halves), None, kind)


def compiled(arch: int, weight_format: WeightFormat) -> list[Compiled]:
    """The kernels of a format."""
    recorder = CompilingDriver(arch)
    driver.set_active(recorder)
    launch(weight_format)
    if weight_format == "fp8_e4m3" and arch >= 89:
        launch_fp8()
    found = recorder.binaries.items()
    return [inspect(binary, made, arch) for binary, made in found if made.name not in UNQUANTIZED]


def faults(weight_format: WeightFormat, kernels: Iterable[Compiled]) -> list[str]:
    """What must not be. Numbers of 2 and 3 bits lie in words alone, which are shorter."""
    found = []
    for one in kernels:
        where = f"{one.name} of {weight_format} on sm_{one.arch}"
        product = one.name in PRODUCTS
        if one.local:
            found.append(f"{where}: {one.local} bytes or accesses of local memory")
        if not one.loads_ahead:
            found.append(f"{where}: does not load {one.ahead} bytes ahead")
        words = product and one.rows <= WORD_ROWS.value
        if product and (one.words, bool(one.tensor_cores)) != (words, not words):
            found.append(f"{where}: {one.rows} rows {'with' if one.tensor_cores else 'without'} tensor cores")
        if product and not one.loads[16] and QUANTIZED[weight_format].low:
            found.append(f"{where}: no load of 16 bytes a thread")
    return found


def line(weight_format: WeightFormat, arch: int, kernels: Sequence[Compiled]) -> str:
    """A row of the table of COLUMNS, of the products."""
    own = [one for one in kernels if one.name in PRODUCTS]
    few = [one for one in own if one.rows == min(one.rows for one in own)]
    cores = "/".join(sorted({core for one in own for core in one.tensor_cores} | {"IDP" for one in own if one.words}))
    shared, flight = max(one.shared for one in own) / 1024, min(one.in_flight for one in few) / 1024
    least = f"{min(one.occupancy for one in own):.0%}", min(max(one.loads, default=0) for one in own)
    most = max(one.registers for one in own), max(one.local for one in kernels), f"{shared:.0f} KiB"
    columns = weight_format, arch, *most, *least, f"{flight:.0f} KiB", f"{max(one.cycles for one in few):.0f}", cores
    return f"| {' | '.join(map(str, columns))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="compile products with quantized weights without a GPU")
    parser.add_argument("--arch", type=int, choices=GPUS, action="append")
    parser.add_argument("--format", choices=QUANTIZED, action="append")
    args = parser.parse_args()
    arches, found = args.arch or list(GPUS), []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for weight_format in args.format or QUANTIZED:
        for arch in arches:
            kernels = compiled(arch, weight_format)
            print(line(weight_format, arch, kernels), flush=True)
            found += faults(weight_format, kernels)
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
