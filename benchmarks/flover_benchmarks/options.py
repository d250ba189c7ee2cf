"""Options of the benchmarks of kernels and of accuracy; the command line is made from these fields."""

from __future__ import annotations

from dataclasses import dataclass

from flover.weight_formats import BLOCKS

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4")
KERNEL_FORMATS = (*FORMATS, *BLOCKS)
USUAL_KERNEL_FORMATS = (*FORMATS, "q8_0", "q4_0", "q4_k", "q6_k", "int4_g128", "int8_g64", "fp8_e4m3")
SMALL_OPS = ("norm", "head_norm", "rotary", "embed")
KERNEL_OPS = ("linear", "experts", "attention", *SMALL_OPS, "pack")
ROWS, QUICK_ROWS = (1, 2, 4, 8, 16, 32, 64, 256, 512), (1, 8, 32)
SECONDS, QUICK_SECONDS = 0.2, 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelOptions:
    """Which kernels to measure, and for how long."""

    rows: tuple[int, ...]
    formats: tuple[str, ...]
    ops: tuple[str, ...]
    threads: tuple[int, ...]
    cpu_isa: str
    seconds: float  # for each op, shape, format and number of rows


@dataclass(frozen=True, slots=True)
class AccuracyOptions:
    """Which text to score, and how much of it."""

    text: str | None = None  # a file; by default heldout.txt of the model
    max_tokens: int | None = None  # by default what fits into half a GiB of scores
    context_len: int = 1024  # longer documents are cut into pieces
