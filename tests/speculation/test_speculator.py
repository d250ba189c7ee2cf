"""What is proposed, and when it is worth its time: decisions, without an engine."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from flover.config import EngineConfig
from flover.config.speculative import Speculation, read_speculation
from flover.errors import ConfigError
from flover.speculation.cost import GenerationCost
from flover.speculation.draft import Draft
from flover.speculation.draft_planner import CYCLE, MOST_PROMPT_TOKENS, DraftPlanner, draft_length
from flover.speculation.drafter import ModelDrafter, NgramDrafter
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
    drafter, tokens, rng = (
        NgramDrafter(Speculation(num_tokens=4, lookup_min=1, lookup_max=3)),
        [1, 2, 1],
        random.Random(1),
    )
    asked = 0
    for _ in range(60):
        asked += bool(drafter.draft(tokens, 4))
        tokens.append(rng.randrange(3))
    assert drafter.acceptance.chance < 0.5
    assert asked < 50
    for number in range(60):
        drafter.draft(tokens, 4)
        tokens.append(number % 3)
    assert drafter.acceptance.chance > 0.9


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
        ('{"method": "eagle", "num_speculative_tokens": 3}', "method must be 'ngram' or 'draft_model', got 'eagle'"),
        ('{"method": "draft_model", "num_speculative_tokens": 3}', "model must be the draft model's .* got None"),
        ('{"model": "a/b", "num_speculative_tokens": 3, "quantization": "awq"}', "must be 'int8' or 'int4', got 'awq'"),
        ('{"model": "a/b", "num_speculative_tokens": 3, "prompt_lookup_max": 3}', "unknown keys prompt_lookup_max"),
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


@dataclass(eq=False)
class Row:
    """A generating sequence with a draft model's drafter."""

    token_ids: list[int]
    max_len: int = 100_000
    drafter: ModelDrafter = field(default_factory=ModelDrafter)


def test_a_draft_model_computes_long_prompts_in_parts_before_it_proposes() -> None:
    planner, row = DraftPlanner(4, 100_000), Row(list(range(MOST_PROMPT_TOKENS + 20)))
    planned = [planner.plan([row], 10.0, 0.1, 1.15) for _ in range(4)]
    assert planned[0] == {}, "iterations without drafts tell what those cost"
    assert planned[1][row] == (0, row.token_ids[:MOST_PROMPT_TOKENS], 0)
    assert planned[2][row] == (MOST_PROMPT_TOKENS, row.token_ids[MOST_PROMPT_TOKENS:], 4)
    row.drafter.take(MOST_PROMPT_TOKENS + 21, [1, 2, 3, 4])
    row.token_ids.append(7)
    assert row.drafter.draft(row.token_ids, 3) == [1, 2, 3]
    row.token_ids.extend([1, 2, 9])
    assert row.drafter.draft(row.token_ids, 3) == ()
    assert row.drafter.acceptance.chance > 0.5
    assert planner.plan([row], 10.0, 0.1, 1.15)[row] == (MOST_PROMPT_TOKENS + 21, [1, 2, 9], 4)
    row.max_len = len(row.token_ids) + 3
    assert planner.plan([row], 10.0, 0.1, 1.15)[row][2] == 1


def test_a_draft_model_that_costs_too_much_is_left_out() -> None:
    planner, rows = DraftPlanner(4, 1000), [Row([1, 2, 3]) for _ in range(8)]
    found = []
    for _ in range(CYCLE):
        drafts = planner.plan(rows, 10.0, 0.1, 1.15)
        found.append(max([count for _, _, count in drafts.values()], default=0))
        if drafts:
            planner.observe([Draft(0, *told) for told in drafts.values()], found[-1] * 9.0)
    assert found == [0, 2, 0, 1, 1, *[0] * (CYCLE - 5)]
    assert draft_length([0.9], 4, 1, 10.0, 1.0, 1.15) == 4
    assert draft_length([0.9], 4, 1, 10.0, 8.0, 1.15) == 0
    assert draft_length([0.4], 4, 1, 10.0, 1.0, 1.15) == 2


def test_not_together_with_asynchronous_scheduling() -> None:
    with pytest.raises(ConfigError, match="--speculative-config excludes --async-scheduling"):
        EngineConfig(speculative_config='{"method": "ngram", "num_speculative_tokens": 3}', async_scheduling=True)
