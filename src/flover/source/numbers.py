"""Numbers of a tensor as it lies in a mapped file."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

STORED: Mapping[str, npt.DTypeLike] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "U8": np.uint8,
    "I32": np.int32,
    "I8": np.int8,
}
"""Types that are read, and numpy's of the same bytes; numpy has no bfloat16 and no floats of 8 bits."""
StoredFloats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]
"""Numbers in the type that a file has: float32, float16, or bfloat16 as its bits."""
_libc = ctypes.CDLL(None)


def widen(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Numbers of a tensor as float32."""
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which is refused by name
        return np.ascontiguousarray(stored, dtype=np.float32)


def forget(stored: npt.NDArray[Any]) -> None:
    """Give back the memory behind a tensor of a file that will not be read again: a mapped file counts as memory, and
    a model would be held twice at the end of loading. Only whole pages inside the tensor go."""
    if not stored.flags.c_contiguous or not hasattr(mmap, "MADV_DONTNEED"):
        return
    address = stored.__array_interface__["data"][0]
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + stored.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
