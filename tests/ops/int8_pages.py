"""Keys and values in int8 with a scale for each token and head, by the formula."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flover.ops import Pages


def in_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and their scales [..., 1]; what is no number makes the scale none."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    integers = (x / scale).round().nan_to_num(77).to(torch.int8)
    return integers, scale


def stored_in_int8(x: Tensor) -> Tensor:
    """The numbers that int8 keeps of x."""
    integers, scale = in_8_bits(x)
    return integers * scale


def int8_pages(keys: Tensor, values: Tensor) -> Pages:
    """Pages of a GPU with these numbers [num_pages, page_size, num_kv_heads, d]."""
    (key_integers, key_scales), (value_integers, value_scales) = (
        in_8_bits(one.transpose(1, 2).contiguous()) for one in (keys, values)
    )
    pages = Pages(key_integers, value_integers, keys.shape[1], "int8")
    return replace(pages, key_scales=key_scales.squeeze(-1), value_scales=value_scales.squeeze(-1))
