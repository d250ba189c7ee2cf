"""Changes to logits that also bind a greedy row: masks, banned tokens, bias, penalties, in vLLM's order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops.choices import Edits
from flover.ops.cuda.launch import OPTIONS

_BLOCK = 1024


@triton.jit
def copy_kernel(logits, rows, masks, mask_of, y, width, words, BLOCK: tl.constexpr):
    """A block of one row as float32, -inf where the mask does not allow the token."""
    edit = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = token < width
    value = tl.load(logits + tl.load(rows + edit) * width + token, inside, other=0.0).to(tl.float32)
    mask = tl.zeros([BLOCK], tl.int64) + tl.load(mask_of + edit)
    word = tl.load(masks + mask * words + token // 32, inside & (mask >= 0), other=-1)
    tl.store(y + edit * width + token, tl.where(((word >> (token % 32)) & 1) != 0, value, float("-inf")), inside)


@triton.jit
def edit_kernel(
    y, banned_starts, banned_ids, bias_starts, bias_ids, biases, seen_starts, seen_ids, outputs, repetition, frequency,
    presence, width, BLOCK: tl.constexpr,
):  # fmt: skip
    """The lists of one row, one after another: a barrier between them, for a token may be in several."""
    edit = tl.program_id(0).to(tl.int64)
    line, place = y + edit * width, tl.arange(0, BLOCK)
    end = tl.load(banned_starts + edit + 1)
    for start in range(tl.load(banned_starts + edit), end, BLOCK):
        inside = start + place < end
        token = tl.load(banned_ids + start + place, inside, other=0)
        tl.store(line + token, float("-inf"), inside)
    tl.debug_barrier()
    end = tl.load(bias_starts + edit + 1)
    for start in range(tl.load(bias_starts + edit), end, BLOCK):
        inside = start + place < end
        token = tl.load(bias_ids + start + place, inside, other=0)
        bias = tl.load(biases + start + place, inside, other=0.0)
        tl.store(line + token, tl.load(line + token, inside, other=0.0) + bias, inside)
    tl.debug_barrier()
    repeated = tl.zeros([BLOCK], tl.float32) + tl.load(repetition + edit)
    often, present = tl.load(frequency + edit), tl.load(presence + edit)
    end = tl.load(seen_starts + edit + 1)
    for start in range(tl.load(seen_starts + edit), end, BLOCK):
        inside = start + place < end
        token = tl.load(seen_ids + start + place, inside, other=0)
        count = tl.load(outputs + start + place, inside, other=0.0)
        value = tl.load(line + token, inside, other=0.0)
        value = tl.where(value > 0, tl.div_rn(value, repeated), value * repeated)
        value = value - often * count
        value = value - present * (count > 0).to(tl.float32)
        tl.store(line + token, value, inside)


def edited(logits: Tensor, edits: Edits) -> Tensor:
    """Copies [E, V] float32 of the rows, changed."""
    count, width = len(edits.rows), logits.shape[1]
    y = torch.empty((count, width), dtype=torch.float32, device=logits.device)
    if count:
        copy_kernel[(count, triton.cdiv(width, _BLOCK))](
            logits, edits.rows, edits.masks, edits.mask_of, y, width, triton.cdiv(width, 32), _BLOCK, **OPTIONS
        )
        edit_kernel[(count,)](
            *(y, edits.banned_starts, edits.banned_ids, edits.bias_starts, edits.bias_ids, edits.biases),
            *(edits.seen_starts, edits.seen_ids, edits.outputs, edits.repetition, edits.frequency, edits.presence),
            width,
            256,
            **OPTIONS,
        )
    return y
