"""What all launches share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.runtime.driver import driver

OPTIONS: Mapping[str, Any] = {"enable_fp_fusion": False}
"""The compiler contracts no product and sum on its own: two kernels that compute the same number give the same bits."""

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Python, which has no machine instructions of its own."""

WORD_ROWS = tl.constexpr(4)
"""The most rows of a tile whose weights have their numbers in words (few_rows.py)."""

TYPES: Mapping[torch.dtype, tl.dtype] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


@dataclass(slots=True)
class Compilations:
    """How many kernels have been compiled, or read from Triton's cache on disk, since `watch`."""

    count: int = 0

    def watch(self) -> None:
        """Count those of this process from now on."""

        def compiled(**_: Any) -> None:
            self.count += 1

        triton.knobs.runtime.jit_post_compile_hook = compiled


def check_launcher() -> None:
    """Let Triton compile what it launches kernels with. Without a C compiler, or Python's headers, it raises here, and
    not at the first kernel, when weights are loaded."""
    driver.active.get_current_target()


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that is at least `size` and `least`."""
    return max(least, 1 << (size - 1).bit_length())


def warps_for(block: int) -> int:
    """Warps for a program that has a row of `block` numbers in registers: 16 bytes a thread or more."""
    return min(16, max(1, block // 256))
