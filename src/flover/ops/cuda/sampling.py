"""Random tokens on the device: min_p, top_k and top_p, then the draw, as `ops/sampling.py` says it, without a sort.

The limit of a row is a token: the last one, in the order of `order.py`, that is left. It is found bit by bit, each bit
with one pass over the row that counts tokens (top_k) or adds their weights (top_p, float64, in one order). Weights and
sums may differ from numpy's in the last bits, so a draw that falls between two tokens by less than that may differ.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops import SampleParams
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.order import BLOCK, sortable


@triton.jit
def kept(key, token, limit, last):
    """Whether tokens come no later than the one of that key and id."""
    return (key > limit) | ((key == limit) & (token <= last))


@triton.jit
def weights_of(row, token, width, best, temperature, min_p):
    """Keys of some tokens of a row and their weights relative to the likeliest; 0 below exp(-70) and min_p."""
    value = tl.load(row + token, token < width, other=float("-inf")).to(tl.float32)
    scaled = tl.div_rn(value - best, tl.zeros_like(value) + temperature)
    weight = tl.where(scaled < -70.0, 0.0, tl.exp(scaled))
    weight = tl.where((weight < min_p) | (token >= width), 0.0, weight)
    return sortable(value), weight


@triton.jit
def count_from(row, width, limit, BLOCK: tl.constexpr):
    """Tokens whose key is at least `limit`."""
    place = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(0, width, BLOCK):
        token = start + place
        key = sortable(tl.load(row + token, token < width, other=float("-inf")).to(tl.float32))
        total += ((key >= limit) & (token < width)).to(tl.int32)
    return tl.sum(total)


@triton.jit
def mass_from(row, width, best, temperature, min_p, least, limit, last, BLOCK: tl.constexpr):
    """Weight of the tokens whose key is at least `least`, and that (limit, last) keeps."""
    place = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, width, BLOCK):
        token = start + place
        key, weight = weights_of(row, token, width, best, temperature, min_p)
        chosen = (key >= least) & kept(key, token, limit, last)
        total += tl.where(chosen, weight, 0.0).to(tl.float64)
    return tl.sum(total)


@triton.jit
def nth_with(row, width, limit, number, BLOCK: tl.constexpr):
    """The id of the token that is the `number`th of those with this key; `width` if there are fewer."""
    place = tl.arange(0, BLOCK)
    found, before = width, 0
    for start in range(0, width, BLOCK):
        token = start + place
        key = sortable(tl.load(row + token, token < width, other=float("-inf")).to(tl.float32))
        same = ((key == limit) & (token < width)).to(tl.int32)
        here = before + tl.cumsum(same, 0)
        found = tl.minimum(found, tl.min(tl.where((same > 0) & (here == number), token, width)))
        before += tl.sum(same)
    return found


@triton.jit
def top_k_limit(row, width, top_k, BLOCK: tl.constexpr):
    """Key and id of the top_k-th token."""
    limit, bit = tl.full([], 0, tl.uint32), tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        candidate = limit | bit
        bit = bit >> 1
        limit = tl.where(count_from(row, width, candidate, BLOCK) >= top_k, candidate, limit)
    above = 0
    if limit < 0xFFFFFFFF:
        above = count_from(row, width, limit + 1, BLOCK)
    return limit, nth_with(row, width, limit, top_k - above, BLOCK)


@triton.jit
def top_p_limit(row, width, best, temperature, min_p, top_p, limit, last, BLOCK: tl.constexpr):
    """Key and id of the first token with which those up to it have the share top_p of what (limit, last) keeps."""
    zero = tl.full([], 0, tl.uint32)
    goal = mass_from(row, width, best, temperature, min_p, zero, limit, last, BLOCK) * top_p
    least, bit = zero, tl.full([], 0x80000000, tl.uint32)
    for _ in range(32):
        candidate = least | bit
        bit = bit >> 1
        mass = mass_from(row, width, best, temperature, min_p, candidate, limit, last, BLOCK)
        least = tl.where(mass >= goal, candidate, least)
    above = tl.full([], 0.0, tl.float64)
    if least < 0xFFFFFFFF:
        above = mass_from(row, width, best, temperature, min_p, least + 1, limit, last, BLOCK)
    both = mass_from(row, width, best, temperature, min_p, least, limit, last, BLOCK)
    ties = 0
    place = tl.arange(0, BLOCK)
    for start in range(0, width, BLOCK):
        token = start + place
        key, _weight = weights_of(row, token, width, best, temperature, min_p)
        ties += tl.sum(((key == least) & kept(key, token, limit, last) & (token < width)).to(tl.int32))
    each = (both - above) / ties
    wanted = tl.ceil((goal - above) / each).to(tl.int32)
    return least, nth_with(row, width, least, tl.minimum(tl.maximum(wanted, 1), ties), BLOCK)


@triton.jit
def sample_kernel(logits, best, temperatures, min_ps, top_ks, top_ps, uniforms, ids, width, BLOCK: tl.constexpr):
    """One row: limits, then the token at which the cumulative weight passes uniform times all of it."""
    row = tl.program_id(0)
    line = logits + row.to(tl.int64) * width
    top, temperature = tl.load(best + row), tl.load(temperatures + row)
    min_p = tl.load(min_ps + row).to(tl.float32)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    limit, last = tl.full([], 0, tl.uint32), width
    if (top_k > 0) & (top_k < width):
        limit, last = top_k_limit(line, width, top_k.to(tl.int32), BLOCK)
    if top_p < 1.0:
        limit, last = top_p_limit(line, width, top, temperature, min_p, top_p, limit, last, BLOCK)
    whole = mass_from(line, width, top, temperature, min_p, tl.full([], 0, tl.uint32), limit, last, BLOCK)
    goal = tl.load(uniforms + row) * whole
    place = tl.arange(0, BLOCK)
    before = tl.full([], 0.0, tl.float64)
    found, newest = width, 0
    for start in range(0, width, BLOCK):
        token = start + place
        key, weight = weights_of(line, token, width, top, temperature, min_p)
        weight = tl.where(kept(key, token, limit, last), weight, 0.0)
        passed = (before + tl.cumsum(weight.to(tl.float64), 0) > goal) & (weight > 0)
        found = tl.minimum(found, tl.min(tl.where(passed, token, width)))
        newest = tl.maximum(newest, tl.max(tl.where(weight > 0, token, 0)))
        before += tl.sum(weight.to(tl.float64))
    # Rounding may leave the goal behind the last token that can be drawn.
    tl.store(ids + row, tl.where(found < width, found, newest).to(tl.int64))


def sample(logits: Tensor, best: Tensor, params: SampleParams) -> Tensor:
    """Random tokens int64 [R] for `logits` [R, V] with largest `best` [R]; the parameters are tensors of the device."""
    rows, width = logits.shape
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        columns = params.temperature, params.min_p, params.top_k, params.top_p, params.uniform
        sample_kernel[(rows,)](logits, best, *columns, ids, width, BLOCK, num_warps=8, **OPTIONS)
    return ids
