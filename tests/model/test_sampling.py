"""The sampler against a straightforward reference, one row at a time; rows that do not see each other; draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.memory.columns import Feature
from flover.model.sampling import sample
from flover.model.sampling.philox import philox4x32, uniforms
from flover.ops import Ops
from flover.request import SamplingParams
from model.sampling_reference import VOCAB, Asker, SomeTokens, choose, distribution, pick, seat

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


@settings(max_examples=100, deadline=None)
@given(st.lists(askers(), min_size=1, max_size=6), st.integers(0, 2**31))
def test_every_row_draws_as_the_reference_does(ops: Ops, crowd: list[Asker], seed: int) -> None:
    logits = torch.randn(len(crowd), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    sampled = choose(ops, logits, crowd)
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


@settings(max_examples=40, deadline=None)
@given(st.lists(askers(), min_size=2, max_size=8), st.randoms(use_true_random=False), st.booleans())
def test_a_row_gets_the_same_alone_in_any_crowd_and_in_any_row(
    ops: Ops, crowd: list[Asker], rng: Any, ties: bool
) -> None:
    logits = torch.randn(len(crowd), 1200, generator=torch.Generator().manual_seed(rng.randrange(2**31))) * 2
    if ties:
        logits = logits.round()
    asks = [Asker(a.prompt, a.outputs, a.seed, a.bad, **wider(a.params, rng)) for a in crowd]
    together = choose(ops, logits, asks)
    order = rng.sample(range(len(asks)), len(asks))
    shuffled = choose(ops, logits[order].contiguous(), [asks[place] for place in order])
    for place, asker in enumerate(asks):
        alone = choose(ops, logits[place : place + 1].clone(), [asker])
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
    assert np.stack(philox4x32(counters, keys)).T.tolist() == [expected for _, _, expected in vectors]
    assert [list(philox4x32(counter, key)) for counter, key, _ in vectors] == [expected for _, _, expected in vectors]


def test_a_few_rows_draw_what_they_draw_among_many() -> None:
    seeds = np.array([0, -1, 2**63 - 1, -(2**63), 7]).repeat(40)
    positions = np.tile(np.array([0, 1, 2**31, 2**40, 10**6]), 40)
    many = uniforms(seeds, positions)
    few = np.concatenate([uniforms(seeds[i : i + 4], positions[i : i + 4]) for i in range(0, 200, 4)])
    assert many.dtype == few.dtype and np.array_equal(many, few)


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
def test_draws_follow_the_distribution(ops: Ops, params: dict[str, Any]) -> None:
    """Chi-square over 12,000 draws; the bound is far beyond the 1 - 1e-6 quantile, and the seeds are fixed."""
    num_draws, vocab = 12_000, 16
    row = torch.randn(vocab, generator=torch.Generator().manual_seed(5)) * 1.5
    asker = Asker([1, 2], [3], **params)
    buffers = seat([asker] * num_draws)
    buffers["seed"][:] = np.arange(num_draws)
    drawn = sample(row.expand(num_draws, vocab).contiguous().numpy(), buffers.view(np.arange(num_draws)), ops).token_ids
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


def test_masks_beside_all_else_that_a_row_asks_for(ops: Ops) -> None:
    """A mask alone changes the logits where they are; with a bias, or log-probabilities, a copy of them."""
    free = [
        Asker(seed=1, temperature=1.0),
        Asker(seed=1, temperature=1.0, top_k=4, top_p=0.9),
        Asker(temperature=0.0),
        Asker(seed=1, temperature=1.0, logprobs=20),
        Asker(temperature=0.0, logprobs=2, logit_bias={1: 100.0, 3: 100.0}),
    ]
    raw = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(4)) * 3
    logits = raw.repeat(2 * len(free), 1)
    buffers = seat([*free, *free])
    for place in range(len(free)):
        buffers["grammar"][place] = SomeTokens()
        buffers["features"][place] |= Feature.GRAMMAR
    sampled = sample(logits.numpy(), buffers.view(np.arange(2 * len(free))), ops)
    some = {token: -1000.0 for token in range(VOCAB) if token % 3}
    wanted = []
    for asker in free:
        bias = {**some, 3: 100.0} if asker.params.logit_bias else some
        params = {name: getattr(asker.params, name) for name in ("temperature", "top_k", "top_p")}
        wanted.append(pick(distribution((raw[0] + bias_of(bias)).tolist(), Asker(**params)), draw_of(asker))[0])
    assert sampled.token_ids[: len(free)].tolist() == wanted
    unmasked = sample(raw.repeat(len(free), 1).numpy(), seat(free).view(np.arange(len(free))), ops)
    assert sampled.token_ids[len(free) :].tolist() == unmasked.token_ids.tolist()
    masked, plain = sampled.logprobs[3], sampled.logprobs[8]
    assert masked.token_ids[1:] == plain.token_ids[1:]
    assert masked.logprobs[1:] == plain.logprobs[1:]
    assert not sampled.errors


def bias_of(bias: dict[int, float]) -> torch.Tensor:
    return torch.tensor([bias.get(token, 0.0) for token in range(VOCAB)])


def draw_of(asker: Asker) -> float:
    return float(uniforms(np.array([asker.seed]), np.array([0]))[0])
