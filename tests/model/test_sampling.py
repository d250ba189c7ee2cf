"""The sampler against a straightforward reference, one row at a time; and rows that do not see each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.memory.buffers import RowBuffers
from flover.memory.columns import row_columns
from flover.model.sampling import Sampled, advance, sample, sampling_values
from flover.model.sampling.philox import philox4x32, uniforms
from flover.model.sampling.state import BadWords, TokenCounts
from flover.request import SamplingParams

torch.set_num_threads(1)
EOS = [3]
VOCAB = 40


class Asker:
    """One row: parameters, what it has seen, a seed."""

    def __init__(
        self,
        prompt: Sequence[int] = (1,),
        outputs: Sequence[int] = (),
        seed: int = 0,
        bad: Sequence[list[int]] = (),
        **params: Any,
    ) -> None:
        self.prompt, self.outputs, self.seed, self.bad = list(prompt), list(outputs), seed, list(bad)
        self.params = SamplingParams(max_tokens=1000, **params)

    def columns(self) -> dict[str, Any]:
        return sampling_values(
            self.params,
            prompt_ids=self.prompt,
            output_ids=self.outputs,
            seed=self.seed,
            bad_words_ids=self.bad,
            eos_ids=EOS,
        )


def seat(askers: list[Asker], num_rows: int | None = None) -> RowBuffers:
    buffers = RowBuffers(row_columns(1), num_rows or len(askers))
    for row, asker in enumerate(askers):
        buffers.insert(row, **asker.columns())
    return buffers


def choose(logits: torch.Tensor, askers: list[Asker]) -> Sampled:
    return sample(logits, seat(askers).view(np.arange(len(askers))))


def distribution(logits: list[float], asker: Asker) -> list[float]:
    """What the row may draw and how likely, in plain Python: the semantics, one line each."""
    params, x = asker.params, list(logits)
    outputs = Counter(asker.outputs)
    if params.allowed_token_ids is not None:
        x = [value if token in params.allowed_token_ids else -math.inf for token, value in enumerate(x)]
    for word in asker.bad:
        if [*asker.outputs, word[-1]][-len(word) :] == word:
            x[word[-1]] = -math.inf
    if len(asker.outputs) < params.min_tokens:
        for token in [*EOS, *(params.stop_token_ids or [])]:
            x[token] = -math.inf
    for token, bias in (params.logit_bias or {}).items():
        x[token] += bias
    for token in {*asker.prompt, *asker.outputs}:
        x[token] = x[token] / params.repetition_penalty if x[token] > 0 else x[token] * params.repetition_penalty
    for token, count in outputs.items():
        x[token] -= params.frequency_penalty * count + params.presence_penalty
    order = sorted(range(len(x)), key=lambda token: (-x[token], token))
    if x[order[0]] == -math.inf:
        return [0.0] * len(x)
    if params.greedy:
        return [1.0 if token == order[0] else 0.0 for token in range(len(x))]
    weights = [math.exp((value - x[order[0]]) / params.temperature) for value in x]
    kept = {token for token in order if weights[token] >= params.min_p}
    if params.top_k > 0:
        kept &= set(order[: params.top_k])
    total, mass, nucleus = sum(weights[token] for token in kept), 0.0, set()
    for token in order:
        if token in kept and (not nucleus or mass < params.top_p * total):
            nucleus.add(token)
            mass += weights[token]
    return [weights[token] / mass if token in nucleus else 0.0 for token in range(len(x))]


def pick(probabilities: list[float], draw: float) -> tuple[int, float]:
    """The token at `draw`, and how near the draw is to a border (where float32 may decide otherwise)."""
    mass, borders = 0.0, []
    chosen = -1
    for token, probability in enumerate(probabilities):
        borders.append(mass)
        mass += probability
        if chosen < 0 and mass > draw:
            chosen = token
    return chosen, min(abs(draw - border) for border in [*borders, mass])


tokens = st.integers(0, VOCAB - 1)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    "top_k": st.sampled_from([0, -1, 1, 2, 7, 39, 40, 500]),
    "top_p": st.sampled_from([1.0, 0.95, 0.5, 0.05, 1e-9]),
    "min_p": st.sampled_from([0.0, 0.01, 0.2]),
    "repetition_penalty": st.sampled_from([1.0, 1.3, 0.8]),
    "presence_penalty": st.sampled_from([0.0, 0.5, -0.7]),
    "frequency_penalty": st.sampled_from([0.0, 0.25, -0.4]),
    "min_tokens": st.sampled_from([0, 2, 50]),
    "stop_token_ids": st.none() | st.lists(tokens, max_size=3),
    "logit_bias": st.none() | st.dictionaries(tokens, st.sampled_from([-100.0, -1.5, 2.0, 100.0]), max_size=3),
    "allowed_token_ids": st.none() | st.lists(tokens, min_size=5, max_size=20),
}


@st.composite
def askers(draw: st.DrawFn) -> Asker:
    asked = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=6))
    return Asker(
        draw(st.lists(tokens, min_size=1, max_size=6)),
        draw(st.lists(tokens, max_size=6)),
        draw(st.integers(-(2**63), 2**63 - 1)),
        draw(st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=2)),
        **{name: draw(FIELDS[name]) for name in sorted(asked)},
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(askers(), min_size=1, max_size=6), st.integers(0, 2**31))
def test_every_row_draws_as_the_reference_does(crowd: list[Asker], seed: int) -> None:
    logits = torch.randn(len(crowd), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    sampled = choose(logits, crowd)
    for place, asker in enumerate(crowd):
        probabilities = distribution(logits[place].tolist(), asker)
        draw = float(uniforms(np.array([asker.seed]), np.array([len(asker.outputs)]))[0])
        if not any(probabilities):
            assert "no token is left" in sampled.errors[place]
            continue
        expected, distance = pick(probabilities, draw)
        assert place not in sampled.errors
        assert probabilities[sampled.token_ids[place]] > 0
        if asker.params.greedy or distance > 1e-5:
            assert sampled.token_ids[place] == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(askers(), min_size=2, max_size=8), st.randoms(use_true_random=False), st.booleans())
def test_a_row_gets_the_same_alone_in_any_crowd_and_in_any_row(crowd: list[Asker], rng: Any, ties: bool) -> None:
    logits = torch.randn(len(crowd), 1200, generator=torch.Generator().manual_seed(rng.randrange(2**31))) * 2
    if ties:
        logits = logits.round()
    asks = [Asker(a.prompt, a.outputs, a.seed, a.bad, **wider(a.params, rng)) for a in crowd]
    together = choose(logits, asks)
    order = rng.sample(range(len(asks)), len(asks))
    shuffled = choose(logits[order].contiguous(), [asks[place] for place in order])
    for place, asker in enumerate(asks):
        alone = choose(logits[place : place + 1].clone(), [asker])
        there = order.index(place)
        assert together.token_ids[place] == alone.token_ids[0] == shuffled.token_ids[there]
        assert together.logprobs.get(place) == alone.logprobs.get(0) == shuffled.logprobs.get(there)


def wider(params: SamplingParams, rng: Any) -> dict[str, Any]:
    names = sorted(FIELDS)
    return {name: getattr(params, name) for name in names} | {"logprobs": rng.choice([None, 0, 2, 5, -1])}


def test_philox_gives_the_published_numbers() -> None:
    """Vectors `philox4x32 10` of the Random123 library's kat_vectors."""
    ones = 2**32 - 1
    vectors = [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, [ones] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    counters = np.array([counter for counter, _, _ in vectors], dtype=np.uint64).T
    keys = np.array([key for _, key, _ in vectors], dtype=np.uint64).T
    assert philox4x32(counters, keys).T.tolist() == [expected for _, _, expected in vectors]


def test_uniforms_stay_inside_zero_and_one_and_differ_by_seed_and_position() -> None:
    seeds = np.array([0, -1, 2**63 - 1, -(2**63)]).repeat(500)
    positions = np.tile(np.arange(500), 4)
    drawn = uniforms(seeds, positions)
    assert (drawn > 0).all() and (drawn < 1).all()
    assert len(np.unique(drawn)) == 2000
    assert abs(drawn.mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"temperature": 1.4, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(params: dict[str, Any]) -> None:
    """Chi-square over 12,000 draws; the bound is far beyond the 1 - 1e-6 quantile, and the seeds are fixed."""
    num_draws, vocab = 12_000, 16
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(5)) * 1.5
    asker = Asker([1, 2], [3], **params)
    buffers = seat([asker] * num_draws)
    buffers["seed"][:] = np.arange(num_draws)
    drawn = sample(row.expand(num_draws, vocab).contiguous(), buffers.view(np.arange(num_draws))).token_ids
    counts = np.bincount(drawn, minlength=vocab)
    expected = np.array(distribution(row.tolist(), asker)) * num_draws
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = possible.sum() - 1
    assert chi_square < freedom + 5.5 * math.sqrt(2 * freedom) + 12


def test_successive_positions_of_one_seed_are_independent_enough() -> None:
    """Pairs of successive draws of one seed over 4 equally likely tokens: chi-square with 15 degrees of freedom."""
    drawn = (uniforms(np.full(8001, 7), np.arange(8001)) * 4).astype(int)
    pairs = np.bincount(drawn[:-1] * 4 + drawn[1:], minlength=16)
    assert ((pairs - 500.0) ** 2 / 500.0).sum() < 45


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = torch.zeros(3, 1000)
    logits[1, [700, 20, 999]] = 1
    assert choose(logits, [Asker(temperature=0)] * 3).token_ids.tolist() == [0, 20, 0]


@pytest.mark.parametrize("params", [{"top_k": 1}, {"top_p": 1e-10}], ids=str)
def test_the_narrowest_choice_is_the_greedy_one_even_among_equals(params: dict[str, Any]) -> None:
    logits = torch.randn(20, 3000).round()
    greedy = choose(logits, [Asker(temperature=0)] * 20).token_ids
    drawn = choose(logits, [Asker(seed=seed, **params) for seed in range(20)]).token_ids
    assert drawn.tolist() == greedy.tolist()


def test_equal_tokens_at_the_border_are_kept_by_lowest_id() -> None:
    num_draws = 400
    logits = torch.zeros(num_draws, 50)
    assert set(choose(logits, [Asker(seed=s, top_k=3) for s in range(num_draws)]).token_ids) == {0, 1, 2}
    assert set(choose(logits, [Asker(seed=s, top_p=0.1) for s in range(num_draws)]).token_ids) == {0, 1, 2, 3, 4}


def test_a_nucleus_wider_than_the_short_list_is_found_by_sorting() -> None:
    vocab, num_draws = 3000, 1000
    logits = torch.zeros(num_draws, vocab)
    drawn = choose(logits, [Asker(seed=seed, top_p=0.5) for seed in range(num_draws)]).token_ids
    assert drawn.max() < vocab / 2
    assert drawn.max() > vocab / 2 - 20


def test_a_tiny_temperature_is_greedy_and_harms_nobody() -> None:
    logits = torch.randn(4, 100) * 30
    askers = [Asker(temperature=1e-300), Asker(temperature=1e-30), Asker(temperature=1e4), Asker(temperature=0)]
    sampled = choose(logits, askers)
    assert not sampled.errors
    best = logits.argmax(-1).tolist()
    assert [sampled.token_ids[place] for place in (0, 1, 3)] == [best[place] for place in (0, 1, 3)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_unusable_logits_fail_their_row_and_no_other(value: float) -> None:
    crowd = [Asker(seed=n, temperature=n % 2, logprobs=2, allowed_token_ids=[5, 9]) for n in range(4)]
    crowd += [Asker(seed=n) for n in range(4)]
    logits = torch.randn(8, 60)
    clean = choose(logits, crowd)
    broken = logits.clone()
    broken[[1, 2, 6], 17] = value  # outside the allowed tokens: a mask must not hide it
    sampled = choose(broken, crowd)
    assert sorted(sampled.errors) == [1, 2, 6]
    assert sampled.token_ids[[1, 2, 6]].tolist() == [-1, -1, -1]
    assert all("not finite" in message for message in sampled.errors.values())
    for place in (0, 3, 4, 5, 7):
        assert sampled.token_ids[place] == clean.token_ids[place]
        assert sampled.logprobs.get(place) == clean.logprobs.get(place)


def test_a_row_whose_every_token_is_excluded_says_so() -> None:
    crowd = [Asker(allowed_token_ids=[3], min_tokens=5, temperature=0), Asker(allowed_token_ids=[3], min_tokens=5)]
    crowd.append(Asker(temperature=0))
    sampled = choose(torch.randn(3, 10), crowd)
    assert sorted(sampled.errors) == [0, 1]
    assert "no token is left" in sampled.errors[0]
    assert sampled.token_ids[2] >= 0


def test_min_tokens_bans_stops_until_enough_are_out() -> None:
    logits = torch.zeros(2, 10)
    logits[:, 3], logits[:, 4] = 9.0, 8.0
    crowd = [Asker(outputs=[0], temperature=0, min_tokens=2, stop_token_ids=[4])]
    crowd.append(Asker(outputs=[0, 0], temperature=0, min_tokens=2, stop_token_ids=[4]))
    assert choose(logits, crowd).token_ids.tolist() == [0, 3]


def test_the_logits_that_come_in_are_left_as_they_are() -> None:
    logits = torch.randn(3, VOCAB)
    before = logits.clone()
    choose(logits, [Asker(top_p=0.5, logit_bias={1: 5.0}), Asker(allowed_token_ids=[1]), Asker(temperature=0)])
    assert torch.equal(logits, before)


def test_state_that_follows_tokens_equals_state_made_from_them() -> None:
    """A preempted sequence comes back with its outputs: its columns must then be what they were."""
    penalties = {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2}

    def asker(outputs: list[int]) -> Asker:
        return Asker([1, 2, 2], outputs, 11, [[4], [4, 5], [6, 7, 8]], min_tokens=40, **penalties)

    rng = np.random.default_rng(3)
    steady, outputs = seat([asker([])]), [0][:0]
    for _ in range(60):
        logits = torch.from_numpy(rng.normal(size=(1, 12)).astype(np.float32)) * 3
        back = seat([asker(outputs)])
        assert [held(steady, name) for name in steady.columns] == [held(back, name) for name in back.columns]
        chosen = sample(logits, steady.view(np.array([0]))).token_ids
        assert chosen.tolist() == sample(logits, back.view(np.array([0]))).token_ids.tolist()
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


def test_moved_rows_keep_all_their_sampling_state() -> None:
    crowd = [
        Asker([1, 2], [5], seed, [[7, 8]], repetition_penalty=1.5, top_p=0.9, top_k=9, min_p=0.01, logprobs=1)
        for seed in range(3)
    ]
    logits = torch.randn(3, VOCAB)
    stay, move = seat(crowd, 6), seat(crowd, 6)
    move.move([0, 1, 2], [5, 3, 4])
    first = sample(logits, stay.view(np.array([0, 1, 2])))
    second = sample(logits, move.view(np.array([5, 3, 4])))
    assert first.token_ids.tolist() == second.token_ids.tolist()
    assert first.logprobs == second.logprobs


def test_no_vocabulary_is_sorted_unless_a_row_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sort(*_: Any, **__: Any) -> None:
        raise RuntimeError("sorted")

    monkeypatch.setattr(torch.Tensor, "sort", no_sort)
    logits = torch.randn(4, 3000) * 5
    choose(logits, [Asker(temperature=0), Asker(), Asker(top_k=50), Asker(min_p=0.1)])
    with pytest.raises(RuntimeError, match="sorted"):
        choose(torch.zeros(1, 3000), [Asker(top_p=0.9)])
