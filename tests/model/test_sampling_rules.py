"""One rule of the sampler per test: ties, bans, unusable rows, and state that follows its row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from flover.memory.buffers import RowBuffers
from flover.model.sampling import advance, sample
from flover.model.sampling.state import BadWords, TokenCounts
from flover.ops import Ops
from flover.ops.cpu import cpu_ops
from model.sampling_reference import VOCAB, Asker, choose, seat


def test_greedy_takes_the_lowest_id_among_equals(ops: Ops) -> None:
    logits = torch.zeros(3, 1000)
    logits[1, [700, 20, 999]] = 1
    assert choose(ops, logits, [Asker(temperature=0)] * 3).token_ids.tolist() == [0, 20, 0]


@pytest.mark.parametrize("vocab", [1, 127, 255, 256, 257, 383, 384, 1000])
def test_the_largest_is_found_in_any_vocabulary(ops: Ops, vocab: int) -> None:
    logits = torch.randn(60, vocab, generator=torch.Generator().manual_seed(vocab)).mul(2).round()
    logits[0, -1] = 99
    logits[1] = -math.inf
    values, ids = ops.argmax(logits.numpy())
    assert values.tolist() == logits.amax(-1).tolist()
    assert ids.tolist() == [row.index(max(row)) for row in logits.tolist()]
    logits[:, vocab // 2] = math.nan
    assert np.isnan(ops.argmax(logits.numpy())[0]).all()


def test_the_number_of_threads_changes_nothing() -> None:
    crowd = [Asker(seed=n, top_p=0.9, logprobs=3, repetition_penalty=1.1) for n in range(4)]
    crowd += [Asker(seed=n, top_k=40, logprobs=3) for n in range(4)] + [Asker(seed=n) for n in range(4)]
    logits = torch.randn(12, 40_000)
    single, double = (choose(cpu_ops("auto", threads), logits, crowd) for threads in (1, 2))
    assert single.token_ids.tolist() == double.token_ids.tolist()
    assert single.logprobs == double.logprobs


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-10}], ids=str)
def test_the_narrowest_choice_is_the_greedy_one_even_among_equals(ops: Ops, params: dict[str, Any]) -> None:
    logits = torch.randn(20, 3000).round()
    greedy = choose(ops, logits, [Asker(temperature=0)] * 20).token_ids
    drawn = choose(ops, logits, [Asker(seed=seed, **params) for seed in range(20)]).token_ids
    assert drawn.tolist() == greedy.tolist()


def test_equal_tokens_at_the_border_are_kept_by_lowest_id(ops: Ops) -> None:
    num_draws = 400
    logits = torch.zeros(num_draws, 50)
    assert set(choose(ops, logits, [Asker(seed=s, top_k=3) for s in range(num_draws)]).token_ids) == {0, 1, 2}
    assert set(choose(ops, logits, [Asker(seed=s, top_p=0.1) for s in range(num_draws)]).token_ids) == {0, 1, 2, 3, 4}


def test_a_nucleus_wider_than_the_short_list_is_found_by_sorting(ops: Ops) -> None:
    vocab, num_draws = 3000, 1000
    logits = torch.zeros(num_draws, vocab)
    drawn = choose(ops, logits, [Asker(seed=seed, top_p=0.5) for seed in range(num_draws)]).token_ids
    assert drawn.max() < vocab / 2
    assert drawn.max() > vocab / 2 - 20


def test_a_tiny_temperature_is_greedy_and_harms_nobody(ops: Ops) -> None:
    logits = torch.randn(4, 100) * 30
    askers = [Asker(temperature=1e-300), Asker(temperature=1e-30), Asker(temperature=1e4), Asker(temperature=0)]
    sampled = choose(ops, logits, askers)
    assert not sampled.errors
    best = logits.argmax(-1).tolist()
    assert [sampled.token_ids[place] for place in (0, 1, 3)] == [best[place] for place in (0, 1, 3)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_unusable_logits_fail_their_row_and_no_other(ops: Ops, value: float) -> None:
    crowd = [Asker(seed=n, temperature=n % 2, logprobs=2, allowed_token_ids=[5, 9]) for n in range(4)]
    crowd += [Asker(seed=n) for n in range(4)]
    logits = torch.randn(8, 60)
    clean = choose(ops, logits, crowd)
    broken = logits.clone()
    broken[[1, 2, 6], 17] = value  # outside the allowed tokens: a mask must not hide it
    sampled = choose(ops, broken, crowd)
    assert sorted(sampled.errors) == [1, 2, 6]
    assert sampled.token_ids[[1, 2, 6]].tolist() == [-1, -1, -1]
    assert all("not finite" in message for message in sampled.errors.values())
    for place in (0, 3, 4, 5, 7):
        assert sampled.token_ids[place] == clean.token_ids[place]
        assert sampled.logprobs.get(place) == clean.logprobs.get(place)


def test_a_row_whose_every_token_is_excluded_says_so(ops: Ops) -> None:
    crowd = [Asker(allowed_token_ids=[3], min_tokens=5, temperature=0), Asker(allowed_token_ids=[3], min_tokens=5)]
    crowd.append(Asker(temperature=0))
    sampled = choose(ops, torch.randn(3, 10), crowd)
    assert sorted(sampled.errors) == [0, 1]
    assert "no token is left" in sampled.errors[0]
    assert sampled.token_ids[2] >= 0


def test_min_tokens_bans_stops_until_enough_are_out(ops: Ops) -> None:
    logits = torch.zeros(2, 10)
    logits[:, 3], logits[:, 4] = 9.0, 8.0
    crowd = [Asker(outputs=[0], temperature=0, min_tokens=2, stop_token_ids=[4])]
    crowd.append(Asker(outputs=[0, 0], temperature=0, min_tokens=2, stop_token_ids=[4]))
    assert choose(ops, logits, crowd).token_ids.tolist() == [0, 3]


def test_the_logits_that_come_in_are_left_as_they_are(ops: Ops) -> None:
    logits = torch.randn(3, VOCAB)
    before = logits.clone()
    choose(ops, logits, [Asker(top_p=0.5, logit_bias={1: 5.0}), Asker(allowed_token_ids=[1]), Asker(temperature=0)])
    assert torch.equal(logits, before)


def test_state_that_follows_tokens_equals_state_made_from_them(ops: Ops) -> None:
    """A preempted sequence comes back with its outputs: its columns must then be what they were."""
    penalties = {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2}

    def asker(outputs: list[int]) -> Asker:
        return Asker([1, 2, 2], outputs, 11, [[4], [4, 5], [6, 7, 8]], min_tokens=40, **penalties)

    rng = np.random.default_rng(3)
    steady, outputs = seat([asker([])]), [0][:0]
    for _ in range(60):
        logits = rng.normal(size=(1, 12)).astype(np.float32) * np.float32(3)
        back = seat([asker(outputs)])
        assert [held(steady, name) for name in steady.columns] == [held(back, name) for name in back.columns]
        chosen = sample(logits, steady.view(np.array([0])), ops).token_ids
        assert chosen.tolist() == sample(logits, back.view(np.array([0])), ops).token_ids.tolist()
        advance(steady, np.array([0]), chosen)
        outputs.append(int(chosen[0]))
    assert len(set(outputs)) > 5


def held(buffers: RowBuffers, name: str) -> Any:
    """The value of a column of row 0, in a form that can be compared."""
    value = buffers[name][0]
    if isinstance(value, TokenCounts):
        return dict(zip(value.ids.tolist(), value.outputs.tolist(), strict=True))
    if isinstance(value, BadWords):
        return value.banned()
    return value.tolist() if isinstance(value, np.ndarray) else value


def test_moved_rows_keep_all_their_sampling_state(ops: Ops) -> None:
    crowd = [
        Asker([1, 2], [5], seed, [[7, 8]], repetition_penalty=1.5, top_p=0.9, top_k=9, min_p=0.01, logprobs=1)
        for seed in range(3)
    ]
    logits = torch.randn(3, VOCAB)
    stay, move = seat(crowd, 6), seat(crowd, 6)
    move.move([0, 1, 2], [5, 3, 4])
    first = sample(logits.numpy(), stay.view(np.array([0, 1, 2])), ops)
    second = sample(logits.numpy(), move.view(np.array([5, 3, 4])), ops)
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert first.logprobs == second.logprobs


@pytest.mark.parametrize(
    ("words", "outputs", "banned"),
    [
        ([[4]], [], [4]),
        ([[4, 5]], [], []),
        ([[4, 5]], [9, 4], [5]),
        ([[4, 5]], [4, 9], []),
        ([[1, 4, 5]], [4], []),
        ([[1, 4, 5]], [1, 4], [5]),
        ([[1, 4, 5]], [2, 4], []),
        ([[4, 4, 5], [4, 6], [7]], [4, 4], [5, 6, 7]),
    ],
)
def test_a_bad_word_is_stopped_at_its_last_token(
    ops: Ops, words: list[list[int]], outputs: list[int], banned: list[int]
) -> None:
    """Whether the output is known at once or comes token by token; the prompt's end does not count."""
    asker = Asker([1, 4], outputs, bad=words, temperature=0, logprobs=None)
    grown = BadWords(words, [])
    for token in outputs:
        grown.add(token)
    assert sorted(grown.banned()) == sorted(BadWords(words, outputs).banned()) == banned
    for token in range(10):
        logits = torch.zeros(1, 10)
        logits[0, token] = 5
        chosen = choose(ops, logits, [asker]).token_ids[0]
        assert (chosen == token) == (token not in banned)
