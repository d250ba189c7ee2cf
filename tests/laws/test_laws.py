"""Fusion never changes an answer: a request alone = the same request in any crowd, order, chunking, page size, after
preemption, on a warm prefix: the same tokens and the same log-probabilities, to the last bit, for every family and
for every way to keep weights, keys and values."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Answers, alone, answer, assert_same, load, logprobs, make, tokens
from support.checkpoints import FAMILIES, make_checkpoint, random_prompt

from flover.engine.loop import Engine
from flover.request import FinishReason, Request

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama-bfloat16": ("llama", {"dtype": "bfloat16"}),
    "gptj-float16": ("gptj", {"dtype": "float16"}),
    "mistral-int8": ("mistral", {"quantization": "int8"}),
    "qwen3-int4": ("qwen3", {"quantization": "int4"}),
    "gpt_neox-int8-cache": ("gpt_neox", {"dtype": "bfloat16", "kv_cache_dtype": "int8"}),
}
"""Every family in float32; every other format with one of them."""
LENGTHS = (3, 40, 17, 1, 65, 33, 8, 20)


def requests() -> list[Request]:
    return [make(f"r{number}", random_prompt(number, length)) for number, length in enumerate(LENGTHS)]


Loader = Callable[..., Engine]


@pytest.fixture(scope="module", params=FORMATS)
def open_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Makes an engine for the family and format with more settings."""
    family, settings = FORMATS[request.param]
    path = make_checkpoint(tmp_path_factory.mktemp(request.param), family)
    return functools.partial(load, path, **settings)


@pytest.fixture(scope="module")
def engine(open_engine: Loader) -> Iterator[Engine]:
    engine = open_engine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(engine: Engine) -> Answers:
    return alone(engine, requests())


def staggered(seed: int) -> list[tuple[int, Request]]:
    rng = random.Random(seed)
    shuffled = requests()
    rng.shuffle(shuffled)
    return [(rng.randint(0, 20), request) for request in shuffled]


@pytest.mark.parametrize("seed", [1, 2])
def test_any_crowd_and_order(engine: Engine, expected: Answers, seed: int) -> None:
    engine.reset_prefix_cache()
    assert_same(expected, answer(engine, staggered(seed)))


@pytest.mark.parametrize(
    "config",
    [
        {"max_num_batched_tokens": 5, "max_num_seqs": 3, "block_size": 7},
        {"block_size": 1, "enable_prefix_caching": False, "reorder": False, "max_num_seqs": 5},
    ],
    ids=["chunks-of-5-pages-of-7", "pages-of-1-no-reorder"],
)
def test_any_chunking_page_size_and_row_order(open_engine: Loader, expected: Answers, config: dict[str, Any]) -> None:
    engine = open_engine(**config)
    assert_same(expected, answer(engine, staggered(3)))
    engine.close()


def test_forced_preemption(open_engine: Loader, expected: Answers) -> None:
    engine = open_engine()
    rng = random.Random(5)

    def preempt_somebody(engine: Engine) -> None:
        if engine.roster.running and rng.random() < 0.2:
            engine.roster.preempt(rng.choice(engine.roster.running))

    assert_same(expected, answer(engine, staggered(4), preempt_somebody))
    engine.close()


def test_a_pool_too_small_for_all(open_engine: Loader, expected: Answers) -> None:
    engine = open_engine()
    page_bytes = 2**22 // (engine.roster.pool.total + 1)
    engine.close()
    engine = open_engine(kv_cache_memory_bytes=page_bytes * 9)
    assert engine.roster.pool.total <= 9
    assert_same(expected, answer(engine, [(0, request) for request in requests()]))
    assert engine.stats().preemptions > 0
    engine.close()


def test_a_warm_prefix(engine: Engine, expected: Answers) -> None:
    engine.reset_prefix_cache()
    answer(engine, [(0, request) for request in requests()])
    warm = answer(engine, staggered(6))
    assert any(delta.cached_tokens for delta in warm["r4"])
    assert_same(expected, warm)


def test_seeds_hold_in_any_crowd(engine: Engine) -> None:
    sampled = [
        make(f"s{number}", random_prompt(number, length), seed=1000 + number, temperature=0.9, top_p=0.95, top_k=50)
        for number, length in enumerate(LENGTHS)
    ]
    lone = alone(engine, sampled)
    crowd = answer(engine, [(number % 3, request) for number, request in enumerate(reversed(sampled))])
    assert_same(lone, crowd)
    other = alone(engine, [make("s0", random_prompt(0, 3), seed=7, temperature=0.9)])
    assert tokens(other["s0"]) != tokens(lone["s0"])


def test_sequences_of_one_request_are_single_requests_with_the_next_seeds(engine: Engine) -> None:
    prompt = random_prompt(9, 40)
    together = answer(engine, [(0, make("n", prompt, seed=50, temperature=0.9, n=3))])
    singles = [make(f"n{index}", prompt, seed=50 + index, temperature=0.9) for index in range(3)]
    apart = alone(engine, singles)
    for index in range(3):
        assert tokens(together["n"], index) == tokens(apart[f"n{index}"])
        assert logprobs(together["n"], index) == logprobs(apart[f"n{index}"])


def test_asynchronous_scheduling_gives_the_same_tokens(tmp_path: Path) -> None:
    """Ends by length and by a stop token, sampled and greedy, sequences of one request, cancellations and preemption:
    with and without, each as if alone."""
    path = make_checkpoint(tmp_path, "llama")
    plain = load(path)
    lone = alone(plain, requests())
    stop = tokens(lone["r1"])[5]
    asked = [
        *requests(),
        make("stops", random_prompt(1, 40), stop_token_ids=[stop]),
        make("many", random_prompt(11, 20), seed=7, temperature=0.9, n=3, prompt_logprobs=1),
        *(make(f"s{number}", random_prompt(number, 9), seed=number, temperature=1.0, top_p=0.9) for number in range(4)),
    ]
    expected = alone(plain, asked)
    assert tokens(expected["stops"])[-1] == stop
    page_bytes = 2**22 // (plain.roster.pool.total + 1)
    plain.close()

    def cancel(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 9:
            engine.cancel("gone")

    for settings in ({}, {"kv_cache_memory_bytes": page_bytes * 12}, {"max_num_batched_tokens": 9, "max_num_seqs": 5}):
        engine = load(path, async_scheduling=True, **settings)
        rng = random.Random(len(settings))
        gone = make("gone", random_prompt(77, 30), max_tokens=60)
        found = answer(engine, [(0, gone), *((rng.randint(0, 12), one) for one in asked)], cancel)
        assert found.pop("gone")[-1].finish_reason is FinishReason.ABORT
        assert_same(expected, found)
        assert bool(engine.stats().preemptions) == ("kv_cache_memory_bytes" in settings)
        engine.close()
