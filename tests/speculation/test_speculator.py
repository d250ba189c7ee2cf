"""What is proposed, and when it is worth its time: decisions, without an engine."""

from __future__ import annotations

import random

import pytest

from flover.config import EngineConfig
from flover.config.speculative import Speculation, read_speculation
from flover.errors import ConfigError
from flover.speculation import Drafter
from flover.speculation.cost import GenerationCost
from flover.speculation.ngram import INDEXED_AT_ONCE, NgramIndex
from flover.speculation.speculator import choose_lengths


def test_the_longest_match_wins_and_among_equals_the_newest() -> None:
    tokens = [1, 2, 3, 10, 9, 2, 3, 20, 9, 2, 3, 30, 1, 2, 3]
    assert NgramIndex(2, 3).propose(tokens, 2) == [10, 9]
    assert NgramIndex(2, 2).propose(tokens, 2) == [30, 1]
    assert NgramIndex(4, 4).propose(tokens, 2) == []
    assert NgramIndex(1, 1).propose([7], 3) == []


def test_what_repeats_goes_on() -> None:
    assert NgramIndex(1, 4).propose([5, 6, 7, 6, 7, 6, 7], 5) == [6, 7, 6, 7, 6]


def test_an_index_that_grows_finds_what_a_new_one_finds() -> None:
    rng = random.Random(0)
    tokens = [rng.randrange(4) for _ in range(60)]
    index = NgramIndex(2, 5)
    for length in range(1, len(tokens)):
        assert index.propose(tokens[:length], 4) == NgramIndex(2, 5).propose(tokens[:length], 4)


def test_a_long_prompt_is_indexed_over_several_iterations() -> None:
    tokens = [*range(INDEXED_AT_ONCE + 50), 7, 8]
    index = NgramIndex(2, 2)
    assert index.propose(tokens, 1) == []
    assert index.propose(tokens, 1) == [9]


def test_acceptance_is_learnt_from_proposals_that_nothing_verified() -> None:
    """A sequence that does not repeat is looked at less and less; one that begins to is noticed."""
    drafter, tokens, rng = Drafter(Speculation(num_tokens=4, lookup_min=1, lookup_max=3)), [1, 2, 1], random.Random(1)
    asked = 0
    for _ in range(60):
        asked += bool(drafter.draft(tokens, 4))
        tokens.append(rng.randrange(3))
    assert drafter.acceptance < 0.5
    assert asked < 50
    for number in range(60):
        drafter.draft(tokens, 4)
        tokens.append(number % 3)
    assert drafter.acceptance > 0.9


def test_as_many_proposals_as_bring_more_tokens_for_their_time() -> None:
    assert choose_lengths([(0.9, 4)], 100, 1, base_ms=10.0, token_ms=0.5) == [4]
    assert choose_lengths([(0.3, 4)], 100, 1, base_ms=10.0, token_ms=0.8) == [1]
    assert choose_lengths([(0.05, 4)], 100, 1, base_ms=10.0, token_ms=1.0) == [0]
    assert choose_lengths([(0.9, 4), (0.2, 4)], 3, 2, base_ms=10.0, token_ms=0.1) == [3, 0]
    # A batch bound by arithmetic: a token costs as much as what it brings, however sure it is.
    assert choose_lengths([(1.0, 4)] * 32, 1000, 32, base_ms=32.0, token_ms=1.0) == [0] * 32
    assert choose_lengths([(0.9, 4)], 100, 1, base_ms=0.0, token_ms=0.0) == [0]


def test_the_cost_is_that_of_the_newest_iterations() -> None:
    cost, rng = GenerationCost(), random.Random(2)
    assert cost.expect(1, cost.token_ms) == 0.0
    for _ in range(50):
        cost.observe(1, 10.0)
    assert cost.expect(1, cost.token_ms) == pytest.approx(10.0)
    assert 0 < cost.token_ms < 2.0
    for _ in range(100):
        tokens = rng.choice((1, 3, 5))
        cost.observe(tokens, 7.0 + 3.0 * tokens + rng.uniform(-0.5, 0.5))
    assert cost.token_ms == pytest.approx(3.0, rel=0.1)
    assert cost.expect(5, cost.token_ms) == pytest.approx(22.0, rel=0.1)
    cost.observe(1, 10_000.0)
    assert cost.expect(5, cost.token_ms) < 40.0


def test_the_setting_is_vllms() -> None:
    only = read_speculation('{"method": "ngram", "num_speculative_tokens": 3}')
    assert only == Speculation(num_tokens=3, lookup_min=5, lookup_max=5)
    assert read_speculation('{"model": "[ngram]", "num_speculative_tokens": 1, "prompt_lookup_max": 4}').lookup_min == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("ngram", "must be JSON"),
        ("[1]", "must be a JSON object, got list"),
        ('{"method": "eagle", "num_speculative_tokens": 3}', "method must be 'ngram', got 'eagle'"),
        ('{"model": "some/draft", "num_speculative_tokens": 3}', "got 'some/draft': tokens are proposed from"),
        ('{"method": "ngram"}', "num_speculative_tokens is missing"),
        ('{"method": "ngram", "num_speculative_tokens": 0}', "whole number from 1 to 32, got 0"),
        ('{"method": "ngram", "num_speculative_tokens": true}', "got True"),
        ('{"method": "ngram", "num_speculative_tokens": 1, "acceptance": 1}', "unknown keys acceptance"),
        (
            '{"method": "ngram", "num_speculative_tokens": 1, "prompt_lookup_min": 3, "prompt_lookup_max": 2}',
            r"prompt_lookup_min \(3\) must be at most prompt_lookup_max \(2\)",
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^--speculative-config.*{words}"):
        EngineConfig(speculative_config=given)


def test_not_together_with_asynchronous_scheduling() -> None:
    with pytest.raises(ConfigError, match="--speculative-config excludes --async-scheduling"):
        EngineConfig(speculative_config='{"method": "ngram", "num_speculative_tokens": 3}', async_scheduling=True)
