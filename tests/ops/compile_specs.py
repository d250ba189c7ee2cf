"""Compile for an H100 what the tests of ops/cuda run under Triton's interpreter, which takes programs that no compiler
does: every operation on the inputs of `spec.py`, and attention of other head sizes. `test_cuda_compiled.py` runs it, for
it needs a Triton that does not interpret."""

from __future__ import annotations

import sys

import torch
from cuda_kernels import META, CompilingDriver, sample_rows
from support.gpu import on_device
from triton.runtime.driver import driver

from flover.ops import Ops
from flover.ops.cuda.table import cuda_ops
from ops import spec

HEADS = (48, 3, 1), (80, 3, 1), (128, 5, 1), (256, 2, 1)
"""Size, heads, key heads."""


def attend(ops: Ops, dim: int, heads: int, kv_heads: int, longest: int, dtype: torch.dtype) -> None:
    """Chunks and single tokens, and single tokens alone, of contexts up to `longest`."""
    stored = torch.empty((40, 20, kv_heads, dim), dtype=dtype, device=META)
    pages = spec.pages_of(ops, stored, stored)
    table, starts, lens = (torch.empty(shape, dtype=torch.int32, device=META) for shape in ((2, 15), (3,), (2,)))
    for query_lens in ([9, 1], [1, 1]):
        plan = ops.plan_attention(table, starts, lens, query_lens, [longest, 9], pages, frozenset({None}))
        queries = torch.empty((sum(query_lens), heads, dim), dtype=dtype, device=META)
        ops.attention(queries, pages, plan, 0.2, None, 0.0, None, None)


def main() -> int:
    counted = CompilingDriver(90)
    driver.set_active(counted)  # type: ignore[no-untyped-call]
    spec.store = lambda weight, first, rows: None  # type: ignore[attr-defined,assignment]
    plain, invariant = cuda_ops(META), cuda_ops(META, batch_invariant=True)
    for dtype in (torch.float32, torch.bfloat16):
        for name, one in spec.SPECS.items():
            inputs = on_device(one.make(torch.Generator().manual_seed(3), dtype), META)
            if name == "linear":
                inputs["kinds"] = ("silu", "gelu_tanh")
            for ops in (plain, invariant) if name == "linear" else (plain,):
                one.run(ops, inputs)
    for sizes in HEADS:
        for longest in (200, 300):
            attend(plain, *sizes, longest, torch.bfloat16)
    sample_rows(320, 4)
    sys.stdout.write(f"{len(counted.binaries)} kernels compiled\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
