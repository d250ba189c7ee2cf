"""Compile for an H100 what the tests of ops/cuda run under Triton's interpreter, which takes programs that no compiler
does: operations on the inputs of `spec.py`, and attention of other head sizes. `test_cuda_compiled.py` runs it, for it
needs a Triton that does not interpret."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch
from cuda_kernels import META, CompilingDriver, sample_rows
from support.gpu import on_device
from triton.runtime.driver import driver

from flover.ops import Ops, Part, Reduction, WeightFormat
from flover.ops.cuda.device import new_pages
from flover.ops.cuda.table import cuda_ops
from flover.ops.cuda.tree import add_parts
from ops import spec

HEADS = (80, 3, 1), (256, 2, 1)
"""Size, heads, key heads."""
COMPILED_ANYWAY = "linear", "experts"
"""Of many kinds, and by `cuda_kernels.py`."""


def attend(ops: Ops, dim: int, heads: int, kv_heads: int, longest: int) -> None:
    """Chunks and single tokens, and single tokens alone, of contexts up to `longest`; pages in bfloat16 and int8."""
    table, starts, lens = (torch.empty(shape, dtype=torch.int32, device=META) for shape in ((2, 15), (3,), (2,)))
    shape, kinds = (40, kv_heads, 20, dim), ("bfloat16", "int8")
    for query_lens, kind in itertools.product(([9, 1], [1, 1]), kinds):
        pages = new_pages(shape, shape, 20, kind, META)
        plan = ops.plan_attention(table, starts, lens, query_lens, [longest, 9], pages, frozenset({None}))
        queries = torch.empty((sum(query_lens), heads, dim), dtype=torch.bfloat16, device=META)
        ops.attention(queries, pages, plan, 0.2, None, 0.0, None, None)


class Pair:
    """Rank 0 of two, of which nothing is computed."""

    rank, size, local_size = 0, 2, 2

    def all_reduce(self, reduction: Reduction, x: torch.Tensor) -> None:
        """Nothing."""


def share() -> None:
    """Products whose inputs ranks share, in one order: floats, and rows of int8 whose scale is that of all ranks."""
    group: Any = Pair()
    ops = cuda_ops(META, activations=torch.bfloat16, batch_invariant=True, group=group)
    kinds: tuple[WeightFormat, ...] = ("bfloat16", "int8")
    for kind in kinds:
        x = torch.empty((1, 2048), dtype=torch.bfloat16, device=META)
        ops.linear(x, ops.new_weight((4096, 2048), kind, False, Part(0, 4096)), None, None)
    add_parts(*(torch.empty(shape, dtype=torch.float32, device=META) for shape in ((4, 1, 4096), (1, 4096))))


def main() -> int:
    counted = CompilingDriver(90)
    driver.set_active(counted)  # type: ignore[no-untyped-call]
    spec.store = lambda weight, first, rows: None  # type: ignore[attr-defined,assignment]
    plain = cuda_ops(META)
    for name, one in spec.SPECS.items():
        if name not in COMPILED_ANYWAY:
            one.run(plain, on_device(one.make(torch.Generator().manual_seed(3), torch.bfloat16), META))
    for sizes in HEADS:
        for longest in (200, 300):
            attend(plain, *sizes, longest)
    sample_rows(320, 4)
    share()
    sys.stdout.write(f"{len(counted.binaries)} kernels compiled\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
