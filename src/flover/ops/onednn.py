"""Linears on weights that oneDNN has packed for itself, float32 on a CPU; everything else is the reference.

Against plain matrices the packed ones run one and a half to three times as fast at the numbers of rows that fusion
works with (8 to 64), and no slower with one row or with hundreds.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from flover.ops import reference

PACKED_FOR_ROWS = 32
"""Rows that oneDNN is told to expect; the packing it then picks serves one row and hundreds as well."""


def is_available() -> bool:
    """Whether this build of torch has oneDNN's packed linear."""
    return torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack(weight: Tensor) -> Tensor:
    """The weight in oneDNN's own layout: an opaque tensor for `linear` alone."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x times the weight's transpose, plus the bias; plain weights (an embedding that is also the head) as they are."""
    if not weight.is_mkldnn:
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


OPS = dataclasses.replace(reference.OPS, name="onednn", pack=pack, linear=linear)
