"""Models that transformers does not have, written in torch after the code that was published with their weights. It
knows nothing of Flover."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.inference_mode()
def baichuan_logits(
    tensors: Mapping[str, Tensor], ids: list[int], *, num_heads: int, alibi: bool, normalized_head: bool
) -> Tensor:
    """Logits [T, vocab] of Baichuan-7B and -13B and Baichuan 2 (modeling_baichuan.py of each)."""
    hidden = tensors["model.embed_tokens.weight"][ids]
    count, width = hidden.shape
    dim = width // num_heads
    mask = torch.full((count, count), -torch.inf).triu(1)
    if alibi:
        mask = mask + torch.tensor(_interleave(num_heads))[:, None, None] * torch.arange(count)
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, dim, 2) / dim)
    angles = torch.outer(torch.arange(count), frequencies).repeat(1, 2)
    layer = 0
    while f"model.layers.{layer}.input_layernorm.weight" in tensors:
        own = {name.removeprefix(f"model.layers.{layer}."): tensor for name, tensor in tensors.items()}
        normed = _rms_norm(hidden, own["input_layernorm.weight"])
        packed = F.linear(normed, own["self_attn.W_pack.weight"]).unflatten(-1, (3, num_heads, dim))
        query, key, value = packed.permute(1, 2, 0, 3)
        if not alibi:
            query, key = (x * angles.cos() + _rotate_half(x) * angles.sin() for x in (query, key))
        scores = query @ key.mT / math.sqrt(dim) + mask
        attended = (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)
        hidden = hidden + F.linear(attended, own["self_attn.o_proj.weight"])
        normed = _rms_norm(hidden, own["post_attention_layernorm.weight"])
        inner = F.silu(F.linear(normed, own["mlp.gate_proj.weight"])) * F.linear(normed, own["mlp.up_proj.weight"])
        hidden = hidden + F.linear(inner, own["mlp.down_proj.weight"])
        layer += 1
    head = tensors["lm_head.weight"]
    return F.linear(_rms_norm(hidden, tensors["model.norm.weight"]), F.normalize(head) if normalized_head else head)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def _interleave(n: int) -> list[float]:
    """The slopes of ALiBi."""

    def power_of_two(n: int) -> list[float]:
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return power_of_two(n)
    closest = 2 ** math.floor(math.log2(n))
    return power_of_two(closest) + _interleave(2 * closest)[0::2][: n - closest]
