"""Compile the products of every quantized format for GPUs that are not here, and say what the machine code is like.

    python tools/cuda_quantized.py [--arch 90] [--format q4_k]

As tools/cuda_kernels.py does: few rows and many, with and without a gate, at the shapes of Llama 3 8B and GPT-J 6B,
whose sizes are all multiples of 16, so what is compiled is the same; experts; rows that are looked up. A row of the
table has one format, and for each GPU the most registers of a thread, KiB of shared memory, and the least share of a
multiprocessor's warps that fit. Ends with status 1 where a kernel keeps registers in local memory, where a product has
no tensor-core instruction or no load of 16 bytes a thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

import torch
from cuda_kernels import GPUS, META, Compiled, CompilingDriver, empty, inspect
from triton.runtime.driver import driver

from flover.ops import Experts, Ops, Routing, WeightFormat
from flover.ops.cuda.quantized import QUANTIZED
from flover.ops.cuda.table import cuda_ops

SHAPES = ((28672, 4096), True, "silu"), ((4096, 14336), False, None), ((16384, 4096), False, "gelu_tanh")
"""Up with its gate and down of Llama 3 8B; up of GPT-J 6B."""
ROWS = 1, 510
PRODUCTS = "quantized_kernel", "quantized_grouped_kernel", "fp8_kernel"


class Recorder(CompilingDriver):
    """Knows the warps of each binary."""

    def __init__(self, arch: int) -> None:
        super().__init__(arch)
        self.found: dict[bytes, tuple[str, int, int]] = {}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        self.found[binary] = name, self.warps[name], shared
        return super().load_binary(name, binary, shared, device)


def launch(ops: Ops, weight_format: WeightFormat) -> None:
    """Everything that a format has kernels for."""
    for shape, gated, kind in SHAPES:
        weight = ops.new_weight(shape, weight_format, gated)
        for rows in ROWS:
            ops.linear(empty((rows, shape[1]), torch.bfloat16), weight, None, kind)
    up, down = ops.new_weight((28672, 4096), weight_format, True), ops.new_weight((4096, 14336), weight_format, False)
    x, scores = empty((8, 4096), torch.bfloat16), empty((8, 2), torch.bfloat16)
    ops.experts(x, scores, Experts([up, up], [down, down]), Routing(2, True), "silu")
    ops.embed(empty((8,), torch.int64), down, 1.0)


def compiled(arch: int, weight_format: WeightFormat) -> list[Compiled]:
    """The kernels of a format."""
    recorder = Recorder(arch)
    driver.set_active(recorder)
    launch(cuda_ops(META, activations=torch.bfloat16), weight_format)
    if weight_format == "fp8_e4m3" and arch >= 89:
        launch(cuda_ops(META, activations=torch.bfloat16, fp8_activations=True), weight_format)
    kernels = [inspect(name, binary, arch, *rest) for binary, (name, *rest) in recorder.found.items()]
    others = "rotate_kernel", "unpack_kernel", "fp8_kernel", "fp8_rows_kernel"
    return [one for one in kernels if "quanti" in one.name or one.name in others]


def faults(weight_format: WeightFormat, kernels: Iterable[Compiled]) -> list[str]:
    """What must not be. Numbers of 2 and 3 bits lie in words alone, which are shorter."""
    found = []
    for one in kernels:
        where = f"{one.name} of {weight_format} on sm_{one.arch}"
        product = one.name in PRODUCTS
        if one.local:
            found.append(f"{where}: {one.local} bytes or accesses of local memory")
        if product and not one.tensor_cores:
            found.append(f"{where}: no tensor cores")
        if product and not one.loads[16] and QUANTIZED[weight_format].low:
            found.append(f"{where}: no load of 16 bytes a thread")
    return found


def cell(kernels: Sequence[Compiled]) -> str:
    """Of the products."""
    own = [one for one in kernels if one.name in PRODUCTS]
    cores = "/".join(sorted({core for one in own for core in one.tensor_cores}))
    shared = max(one.shared for one in own) / 1024
    return f"{max(one.registers for one in own)}, {shared:.0f} KiB, {min(one.occupancy for one in own):.0%}, {cores}"


def main() -> int:
    parser = argparse.ArgumentParser(description="compile products with quantized weights without a GPU")
    parser.add_argument("--arch", type=int, choices=GPUS, action="append")
    parser.add_argument("--format", choices=QUANTIZED, action="append")
    args = parser.parse_args()
    arches, found = args.arch or list(GPUS), []
    print(f"| format | {' | '.join(f'sm_{arch}' for arch in arches)} |\n|{'---|' * (1 + len(arches))}")
    for weight_format in args.format or QUANTIZED:
        cells = []
        for arch in arches:
            kernels = compiled(arch, weight_format)
            cells.append(cell(kernels))
            found += faults(weight_format, kernels)
        print(f"| {weight_format} | {' | '.join(cells)} |", flush=True)
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
