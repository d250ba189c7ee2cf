"""Log-probabilities are of the raw logits, ordered with distinct ranks, and computed in slices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from flover.model.sampling import logprobs as module
from flover.model.sampling import prompt_logprobs, token_logprobs
from flover.ops import HostArray, Ops
from flover.request import TokenLogprobs


def reference(row: list[float], chosen: int, num_top: int) -> TokenLogprobs:
    log_total = math.log(sum(math.exp(value) for value in row))
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    top = order if num_top < 0 else order[:num_top]
    ids = [chosen, *top]
    return TokenLogprobs(ids, [row[token] - log_total for token in ids], [order.index(token) + 1 for token in ids])


def same(found: TokenLogprobs, expected: TokenLogprobs) -> bool:
    close = all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(found.logprobs, expected.logprobs, strict=True))
    return close and found.token_ids == expected.token_ids and found.ranks == expected.ranks


@pytest.mark.parametrize("ties", [False, True])
def test_chosen_first_then_the_most_likely_with_ranks(ops: Ops, ties: bool) -> None:
    logits = torch.randn(9, 30, generator=torch.Generator().manual_seed(1)) * 2
    if ties:
        logits = logits.round()
    chosen = np.arange(9) * 3
    num_top = np.array([0, 1, 5, 20, -1, 29, 30, 5, 500])
    found = token_logprobs(logits.numpy(), chosen, num_top, ops)
    for place in range(9):
        assert same(found[place], reference(logits[place].tolist(), int(chosen[place]), int(num_top[place]))), place


def test_tokens_of_probability_zero_keep_their_rank(ops: Ops) -> None:
    row = np.array([[-math.inf, 0.0, -math.inf, 1.0]], dtype=np.float32)
    found = token_logprobs(row, np.array([2]), np.array([3]), ops)[0]
    assert found.token_ids == [2, 3, 1, 0]
    assert found.ranks == [4, 1, 2, 3]
    assert found.logprobs[0] == -math.inf


@pytest.mark.parametrize("slice_logits", [1, 61, 10**6])
def test_prompt_logprobs_are_the_same_in_slices_that_stay_bounded(
    ops: Ops, monkeypatch: pytest.MonkeyPatch, slice_logits: int
) -> None:
    vocab, hidden = 20, torch.randn(17, 6, generator=torch.Generator().manual_seed(2)).numpy()
    weight = torch.randn(vocab, 6, generator=torch.Generator().manual_seed(3)).numpy()
    monkeypatch.setattr(module, "SLICE_LOGITS", slice_logits)
    widths: list[int] = []

    def head(part: HostArray) -> HostArray:
        widths.append(len(part) * vocab)
        return np.stack([weight @ row for row in part])

    next_ids = np.arange(17)
    found = prompt_logprobs(hidden, next_ids, 2, head, vocab, ops)
    assert found is not None and len(found) == 17
    assert max(widths) <= max(slice_logits, vocab)
    for place in range(17):
        assert same(found[place], reference((weight @ hidden[place]).tolist(), place, 2))


def test_prompt_logits_that_are_not_finite_give_none(ops: Ops) -> None:
    def head(part: HostArray) -> HostArray:
        return part * np.array([1.0, math.nan], dtype=np.float32)

    assert prompt_logprobs(np.ones((3, 2), dtype=np.float32), np.zeros(3, dtype=np.int64), 1, head, 2, ops) is None


def test_an_empty_stretch_of_prompt_needs_no_logits(ops: Ops) -> None:
    def head(part: HostArray) -> Any:
        raise AssertionError("called for nothing")

    assert prompt_logprobs(np.ones((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64), 1, head, 2, ops) == []
