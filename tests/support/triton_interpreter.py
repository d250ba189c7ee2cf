"""Triton's interpreter with bfloat16 as a GPU has it.

Triton 3.9's own cuts float32 off instead of rounding it to the nearest bfloat16, loses the carry of a number that is
rounded up to the next power of two in FP8, multiplies matrices of bfloat16 as if their bits were integers, and those of
float32 by BLAS, whose order of adding is not always that of the row alone. It also
replaces the language's functions anew at every call of a part of a kernel, which takes most of the time; once is
enough. Importing this file replaces all of that, unless a GPU runs the kernels.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def narrow(wide: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of the nearest bfloat16, of two the even one; a NaN stays one."""
    bits = np.ascontiguousarray(wide).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(wide), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def widened(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """What bfloat16 numbers are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _in_64_bits(one: TensorHandle) -> npt.NDArray[np.float64]:
    """Numbers of a product: BLAS adds those of 32 bits in an order that hangs on a row's place, on some processors."""
    if one.dtype.primitive_bitwidth == 8:
        return torch.from_numpy(one.data).view(torch.float8_e4m3fn).to(torch.float64).numpy()
    return np.asarray(one.data, dtype=np.float64)


def _use() -> None:
    own_cast, own_dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot
    own_fp_to_fp = InterpreterBuilder.create_fp_to_fp

    def cast(self: Any, source: Any, kind: Any) -> Any:
        before, after = source.dtype.scalar, kind.scalar
        if (before, after) == (tl.float32, tl.bfloat16):
            return TensorHandle(narrow(source.data), after)
        if (before, after) == (tl.bfloat16, tl.float32):
            return TensorHandle(widened(source.data), after)
        return own_cast(self, source, kind)

    def dot(self: Any, a: Any, b: Any, c: Any, *options: Any) -> Any:
        if a.dtype == tl.bfloat16:
            a, b = (TensorHandle(widened(one.data), tl.float32) for one in (a, b))
        if c.dtype.scalar != tl.float32:
            return own_dot(self, a, b, c, *options)
        wide = [TensorHandle(one, tl.float64) for one in (_in_64_bits(a), _in_64_bits(b))]
        none = TensorHandle(np.zeros(1), tl.float64)
        return TensorHandle(own_dot(self, *wide, none, *options).data.astype(np.float32) + c.data, tl.float32)

    def fp_to_fp(self: Any, source: Any, kind: Any, rounding: Any) -> Any:
        if (source.dtype.scalar, kind.scalar) == (tl.float32, tl.float8e4nv):
            wide = torch.from_numpy(np.ascontiguousarray(source.data))
            return TensorHandle(wide.to(torch.float8_e4m3fn).view(torch.uint8).numpy(), tl.float8e4nv)
        return own_fp_to_fp(self, source, kind, rounding)

    InterpreterBuilder.cast_impl = cast
    InterpreterBuilder.create_fp_to_fp = fp_to_fp
    InterpreterBuilder.create_dot = dot
    for function in (_of_language, tl.sum.fn):  # they see `tl` and `tl.core`
        interpreter._patch_lang(function)
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()


def skip_overflow_checks(patch: pytest.MonkeyPatch) -> None:
    """Engines do without the interpreter's check of every sum and product of integers, which takes a third of its
    time. The tests of the operations have it."""
    builder = interpreter.interpreter_builder
    patch.setattr(builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))


def _of_language() -> None:
    """Its module imports the language as `tl`."""


if os.environ.get("TRITON_INTERPRET") == "1":
    _use()
