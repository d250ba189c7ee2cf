"""The cost model learns, and the step budget keeps its word."""

import random

import pytest

from flover.engine.budget import FIRST_TOKENS, LEAST_CHUNK, Allowance, CostModel, chunk_attention
from flover.request import ExpertReads


def machine(tokens: int, attention: int) -> float:
    """A made-up device: milliseconds of an iteration."""
    return 12.0 + 0.9 * tokens + 0.0001 * attention


def taught(noise: float = 0.0) -> CostModel:
    model, rng = CostModel(ExpertReads()), random.Random(1)
    for _ in range(300):
        tokens, context = rng.randint(1, 200), rng.randint(1, 1000)
        cost = machine(tokens, tokens * context) * (1 + noise * rng.uniform(-1, 1))
        model.observe(tokens, tokens * context, cost)
    return model


def test_the_model_learns_a_linear_machine() -> None:
    model = taught()
    for tokens, attention in ((1, 100), (64, 6400), (150, 90_000)):
        assert model.predict(tokens, attention) == pytest.approx(machine(tokens, attention), rel=0.02)


def test_a_mixture_of_experts_reads_more_weights_for_more_tokens() -> None:
    """A model that takes all experts for read with the first token is off by a third here."""
    reads, rng = ExpertReads(part=0.9, chosen=8 / 64), random.Random(1)
    chosen = [{expert for _ in range(16) for expert in rng.sample(range(64), 8)} for _ in range(300)]
    assert reads.share(16) == pytest.approx(0.1 + 0.9 * sum(map(len, chosen)) / 300 / 64, abs=0.01)
    assert (reads.share(0), ExpertReads().share(3)) == (pytest.approx(0.1), 1.0)
    model = CostModel(reads)
    for _ in range(300):
        tokens = rng.choice((1, 2, 4, 40, 200))
        model.observe(tokens, 100 * tokens, 80 * reads.share(tokens) + 0.5 * tokens)
    for tokens in (1, 8, 16, 100):
        expected = 80 * reads.share(tokens) + 0.5 * tokens
        assert model.predict(tokens, 100 * tokens) == pytest.approx(expected, rel=0.02)


def test_predictions_never_fall_when_the_work_grows() -> None:
    model = taught(noise=0.3)
    costs = [model.predict(tokens, 50 * tokens) for tokens in range(1, 400)]
    assert costs == sorted(costs)


def test_a_machine_that_slows_down_is_followed() -> None:
    model = taught()
    for _ in range(100):
        model.observe(40, 4000, 3 * machine(40, 4000))
    assert model.predict(40, 4000) == pytest.approx(3 * machine(40, 4000), rel=0.1)


def test_chunks_stay_within_the_target() -> None:
    model = taught()
    allowance = Allowance(model=model, target_ms=100.0, tokens_left=1000, tokens=8, attention=8 * 500)
    count = allowance.afford(500, 900)
    cost = machine(8 + count, 8 * 500 + chunk_attention(500, count))
    assert 85 <= cost <= 91  # nine tenths of the target are planned for
    allowance.spend(500, count)
    assert allowance.afford(0, 900) <= 2


def test_the_margin_covers_the_spread_of_the_machine() -> None:
    model, rng = taught(noise=0.3), random.Random(2)
    over = 0
    for _ in range(1000):
        tokens = rng.randint(50, 200)
        expected = model.predict(tokens, tokens * 100)
        over += machine(tokens, tokens * 100) * (1 + 0.3 * rng.uniform(-1, 1)) > expected
    assert 0 < over <= 100


def test_one_stall_does_not_starve_prompts() -> None:
    model = taught()
    model.observe(40, 4000, 50 * machine(40, 4000))
    for _ in range(100):
        model.observe(40, 4000, machine(40, 4000))
    assert model.predict(40, 4000) < 1.1 * machine(40, 4000)


def test_prompts_always_advance() -> None:
    allowance = Allowance(model=taught(), target_ms=1.0, tokens_left=1000, tokens=8, attention=8 * 500)
    assert allowance.afford(0, 900) == LEAST_CHUNK


def test_nothing_is_known_at_first_so_the_first_iterations_are_small() -> None:
    allowance = Allowance(model=CostModel(ExpertReads()), target_ms=100.0, tokens_left=1000, tokens=0, attention=0)
    assert allowance.afford(0, 900) == FIRST_TOKENS


def test_without_a_target_only_the_cap_counts() -> None:
    allowance = Allowance(model=CostModel(ExpertReads()), target_ms=0.0, tokens_left=700, tokens=8, attention=0)
    assert allowance.afford(0, 900) == 700


def test_the_cap_is_hard() -> None:
    allowance = Allowance(model=taught(), target_ms=1e9, tokens_left=3, tokens=8, attention=0)
    assert allowance.afford(0, 900) == 3
    allowance.spend(0, 3)
    assert allowance.afford(0, 900) == 0
