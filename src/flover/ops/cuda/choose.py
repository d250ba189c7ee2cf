"""A token for each row, all on the device: edits, greedy choice, draws; and log-probabilities of the raw logits.

What a row gets is a function of its own logits and parameters: rows that edit or draw are computed apart, each by a
program of its own. Nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import fields, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from flover.ops import SAMPLE_COLUMNS, SampleParams
from flover.ops.choices import Choices, Draws
from flover.ops.cuda.device import to_device as arrays_to_device
from flover.ops.cuda.edit import edited
from flover.ops.cuda.embed import gather_rows
from flover.ops.cuda.launch import OPTIONS
from flover.ops.cuda.order import BLOCK, argmax, logsumexp, sortable
from flover.ops.cuda.philox import uniforms
from flover.ops.cuda.sampling import sample

NO_TOKEN = -1


def to_device(choices: Choices, device: torch.device) -> Choices:
    """The same arrays as tensors of the device, by one copy."""
    groups = [getattr(choices, item.name) for item in fields(choices)]
    arrays = {
        f"{place} {item.name}": getattr(group, item.name)
        for place, group in enumerate(groups)
        if group is not None
        for item in fields(group)
    }
    moved = arrays_to_device(arrays, device) if arrays else {}
    return Choices(
        *(
            group and replace(group, **{item.name: moved[f"{place} {item.name}"] for item in fields(group)})
            for place, group in enumerate(groups)
        )
    )


def choose(logits: Tensor, choices: Choices) -> tuple[Tensor, Tensor]:
    """Tokens int64 [S] for `logits` [S, V] of any float type, which stay as they are, and the largest logit of each row
    after its edits, float32 [S]; where that is not finite, the token is NO_TOKEN."""
    edits = choices.edits
    best, ids = argmax(logits)
    if choices.draws is not None:
        ids.index_copy_(0, choices.draws.rows, _draw(logits, best, choices.draws))
    if edits is not None:
        changed = edited(logits, edits)
        edited_best, edited_ids = argmax(changed)
        if choices.edited_draws is not None:
            drawn = _draw(changed, edited_best, choices.edited_draws)
            edited_ids.index_copy_(0, choices.edited_draws.rows, drawn)
        # A row whose raw logits are no numbers stays one that gets no token.
        usable = torch.isfinite(best[edits.rows])
        best.index_copy_(0, edits.rows, torch.where(usable, edited_best, best[edits.rows]))
        ids.index_copy_(0, edits.rows, edited_ids)
    return torch.where(torch.isfinite(best), ids, NO_TOKEN), best


def _draw(logits: Tensor, best: Tensor, draws: Draws) -> Tensor:
    params = SampleParams(
        **{name: getattr(draws, name) for name in SAMPLE_COLUMNS},
        uniform=uniforms(draws.seed, draws.num_outputs),  # type: ignore[arg-type]  # tensors of the device
    )
    return sample(gather_rows(logits, draws.rows), best[draws.rows], params)


@triton.jit
def rank_kernel(logits, ids, ranks, width, BLOCK: tl.constexpr):
    """The place, from 1 on, of one token of each row in the order of `order.py`."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(ids + row)
    chosen = sortable(tl.load(logits + row * width + token).to(tl.float32))
    place = tl.arange(0, BLOCK)
    before = tl.zeros([BLOCK], tl.int32)
    for start in range(0, width, BLOCK):
        other = start + place
        key = sortable(tl.load(logits + row * width + other, other < width, other=float("-inf")).to(tl.float32))
        better = (key > chosen) | ((key == chosen) & (other < token))
        before += (better & (other < width)).to(tl.int32)
    tl.store(ranks + row, tl.sum(before).to(tl.int64) + 1)


def logprobs(logits: Tensor, chosen: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, log-probabilities (float32) and ranks, each [R, 1 + num_top], of the chosen token of each row of `logits`
    [R, V] and of the most likely ones, in order."""
    rows, width = logits.shape
    ranks = torch.empty((rows, 1), dtype=torch.int64, device=logits.device)
    ids = chosen[:, None]
    if rows:
        rank_kernel[(rows,)](logits, chosen, ranks, width, BLOCK, num_warps=8, **OPTIONS)
    if num_top:
        first = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :num_top]
        ids = torch.cat((ids, first), dim=1)
        counted = torch.arange(1, first.shape[1] + 1, device=logits.device)
        ranks = torch.cat((ranks, counted.expand(rows, -1)), dim=1)
    values = logits.gather(1, ids).double() - logsumexp(logits)[:, None]
    return ids, values.float(), ranks
