"""The executor on a decoder that echoes what is in the pages: rows, pages, chunks and state, exactly."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from device_driver import (
    EOS,
    MOST_PROPOSED,
    VOCAB,
    Driver,
    Story,
    echo_digests,
    echo_executor,
    echo_logits,
    story,
    tell_alone,
    tell_in_a_crowd,
)

from flover.engine.plan import Admission, Grant, Move, StepPlan, Work
from flover.errors import InvariantError
from flover.executor.device import DeviceExecutor
from flover.memory.buffers import RowBuffers
from flover.memory.columns import row_columns
from flover.model.sampling import sample, sampling_values, token_logprobs
from flover.ops import reference
from flover.request import SamplingParams


def expected_outputs(told: Story) -> list[int]:
    """What a sequence must get, one logits row after another, without executor, rows or pages."""
    outputs: list[int] = []
    while len(outputs) < (told.params.max_tokens or 0):
        buffers = RowBuffers(row_columns(1), 1)
        values = sampling_values(
            told.params,
            prompt_ids=told.prompt,
            output_ids=outputs,
            seed=told.seed,
            bad_words_ids=told.bad,
            eos_ids=[EOS],
        )
        buffers.insert(0, **values)
        logits = echo_logits(int(echo_digests(told.prompt + outputs)[-1]))
        outputs.append(int(sample(logits, buffers.view(np.array([0])), reference.OPS).token_ids[0]))
    return outputs


def draw_story(rng: Random) -> Story:
    options: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 12},
        {"temperature": 1.2, "repetition_penalty": 1.4, "frequency_penalty": 0.3, "presence_penalty": 0.2},
        {"repetition_penalty": 2.0},
        {"temperature": 1.0, "min_tokens": 5, "logit_bias": {EOS: 6.0}, "min_p": 0.05},
        {"temperature": 1.0, "allowed_token_ids": list(range(0, VOCAB, 3)), "logprobs": 2},
        {"logprobs": 0, "prompt_logprobs": 1},
    ]
    return story(
        [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))],
        rng.randint(5, 12),
        seed=rng.randrange(-(2**63), 2**63),
        bad=rng.choice([[], [[3], [4, 5]], [[9, 9]]]),
        **rng.choice(options),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reorder", [True, False], ids=["reorder", "no-reorder"])
@pytest.mark.parametrize("preempt", [0.0, 0.05], ids=["", "preempt"])
def test_a_sequence_gets_the_same_tokens_in_any_crowd(seed: int, reorder: bool, preempt: float) -> None:
    rng = Random(seed)
    stories = [draw_story(rng) for _ in range(12)]
    executor, _ = echo_executor(page_size=rng.choice([1, 3, 4, 16]), num_pages=600)
    tell_in_a_crowd(Driver(executor), stories, rng, reorder=reorder, preempt=preempt)
    for told in stories:
        assert told.error is None
        assert told.outputs == expected_outputs(told)
        if told.params.logprobs is not None:
            assert len(told.logprobs) == len(told.outputs)
            digests = echo_digests(told.known[:-1])[len(told.prompt) - 1 :]
            count = told.params.logprobs
            wanted = [
                token_logprobs(echo_logits(int(digest)), np.array([token]), np.array([count]), reference.OPS)[0]
                for digest, token in zip(digests, told.outputs, strict=True)
            ]
            assert told.logprobs == wanted


@pytest.mark.parametrize("chunk_len", [1, 2, 3, 7, 100])
def test_prompt_logprobs_have_one_entry_per_prompt_token_in_any_chunking(chunk_len: int) -> None:
    told = story(range(7), 2, prompt_logprobs=3)
    crowd = story(range(9), 4)
    executor, _ = echo_executor()
    driver = Driver(executor)
    driver.run(admit=[(0, crowd), (1, told)], chunk_len=chunk_len)
    while not told.done:
        driver.run(chunk_len=chunk_len)
    assert told.prompt_logprobs[0] is None
    wanted = [
        token_logprobs(echo_logits(int(digest)), np.array([token]), np.array([3]), reference.OPS)[0]
        for digest, token in zip(echo_digests(told.prompt)[:-1], told.prompt[1:], strict=True)
    ]
    assert told.prompt_logprobs[1:] == wanted
    assert told.outputs == expected_outputs(told)
    assert crowd.prompt_logprobs == []


@pytest.mark.parametrize("seed", range(4))
def test_proposals_change_no_token_and_no_logprob(seed: int) -> None:
    """Right and wrong ones, greedy and sampled, with what follows the tokens before: penalties, bans, min_tokens."""
    rng = Random(seed)
    stories = [draw_story(rng) for _ in range(6)]
    wanted = [expected_outputs(told) for told in stories]
    answers = {id(told): outputs for told, outputs in zip(stories, wanted, strict=True)}

    def propose(told: Story) -> list[int]:
        rest = answers[id(told)][len(told.outputs) :][: rng.randint(0, MOST_PROPOSED)]
        return [(token + 1) % VOCAB if rng.random() < 0.3 else token for token in rest]

    executor, decoder = echo_executor(num_pages=200)
    driver = Driver(executor)
    driver.run(admit=list(enumerate(stories)))
    steps = 1
    while any(not told.done for told in stories):
        for row, told in enumerate(driver.stories):
            if told is not None and told.done:
                driver.leave(row)
        driver.run(propose=propose, window=(0, 6))
        steps += 1
    assert [told.outputs[: len(outputs)] for told, outputs in zip(stories, wanted, strict=True)] == wanted
    assert steps < max(map(len, wanted)), "some proposals were right"
    for told in stories:
        if told.params.logprobs is not None:
            digests = echo_digests(told.known[:-1])[len(told.prompt) - 1 :]
            assert [entry.token_ids[0] for entry in told.logprobs] == told.outputs
            alone = [echo_logits(int(digest)) for digest in digests]
            count = np.array([told.params.logprobs])
            again = [
                token_logprobs(logits, np.array([token]), count, reference.OPS)[0]
                for logits, token in zip(alone, told.outputs, strict=True)
            ]
            assert told.logprobs == again
    assert max(decoder.logit_rows) > len(stories)


def test_a_prompt_taken_from_the_cache_is_not_computed_again() -> None:
    executor, decoder = echo_executor(page_size=4)
    driver = Driver(executor)
    first, second = story(range(10), 3), story([*range(8), 30, 31], 3)
    driver.run(admit=[(0, first)])
    second.pages, second.computed = first.pages[:2], 8
    driver.run(admit=[(1, second)])
    assert decoder.batches[-1].query_lens_host == (1, 2)
    while not (first.done and second.done):
        driver.run()
    assert first.outputs[:3] == expected_outputs(first)
    assert second.outputs[:3] == expected_outputs(second)


def test_logits_are_made_only_for_rows_that_sample() -> None:
    executor, decoder = echo_executor()
    driver = Driver(executor)
    driver.run(admit=[(0, story(range(5), 9)), (1, story(range(30), 9))], chunk_len=5)
    driver.run(chunk_len=5)
    assert decoder.logit_rows == [1, 1]
    assert decoder.batches[1].query_lens_host == (1, 5)
    assert decoder.batches[1].context_lens_host == (6, 10)


def test_a_row_with_unusable_logits_fails_alone() -> None:
    executor, decoder = echo_executor()
    driver = Driver(executor)
    crowd = [story([n, n + 1], 6, seed=n, temperature=n % 2) for n in range(4)]
    decoder.poison = int(echo_digests([2, 3, *expected_outputs(crowd[2])[:2]])[-1])
    driver.run(admit=list(enumerate(crowd)))
    for _ in range(2):
        driver.run()
    assert crowd[2].error is not None and "not finite" in crowd[2].error
    assert len(crowd[2].outputs) == 2
    driver.leave(2)
    for _ in range(3):
        driver.run(moves=[(3, 2)] if driver.stories[3] is not None else [])
    for told in (crowd[0], crowd[1], crowd[3]):
        assert told.outputs == expected_outputs(told)


def test_unusable_logits_inside_a_prompt_that_is_reported_fail_the_row() -> None:
    executor, decoder = echo_executor()
    driver = Driver(executor)
    told, other = story(range(6), 3, prompt_logprobs=0), story(range(6), 3)
    decoder.poison = int(echo_digests([0, 1, 2])[-1])
    driver.run(admit=[(0, told), (1, other)])
    assert told.error is not None and told.outputs == []
    assert other.outputs == expected_outputs(other)[:1]


def test_dead_rows_are_computed_on_the_null_page_and_ignored() -> None:
    executor, decoder = echo_executor()
    driver = Driver(executor)
    low, high = story(range(5), 3), story(range(4), 3)
    driver.run(admit=[(1, low), (4, high)], window=(0, 6))
    result = driver.run(window=(0, 6))
    batch = decoder.batches[-1]
    assert [item.row for item in result.rows] == [1, 4]
    assert batch.num_rows == 6
    assert batch.context_lens_host == (1, 6, 1, 1, 5, 1)
    assert not batch.page_table[[0, 2, 3, 5]].any()
    assert batch.slots[[0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    assert decoder.logit_rows[-1] == 2


def test_a_row_that_dies_inside_the_window_goes_to_the_null_page() -> None:
    executor, decoder = echo_executor()
    driver = Driver(executor)
    short, long = story(range(9), 1), story(range(5), 6)
    driver.run(admit=[(0, short), (1, long)])
    driver.leave(0)
    while not long.done:
        driver.run(window=(0, 2))
        assert decoder.batches[-1].context_lens_host[0] == 1
        assert decoder.batches[-1].slots[0] == 0
    assert long.outputs == expected_outputs(long)


def test_a_plan_without_work_computes_nothing() -> None:
    executor, decoder = echo_executor()
    driver = Driver(executor)
    tell_alone(driver, story(range(4), 2))
    num_batches = len(decoder.batches)
    assert driver.run().rows == []
    assert len(decoder.batches) == num_batches


def test_after_a_reset_rows_are_as_new() -> None:
    executor, _ = echo_executor()
    driver = Driver(executor)
    driver.run(admit=[(0, story(range(9), 5, temperature=1.0, repetition_penalty=1.5)), (1, story(range(3), 5))])
    executor.reset()
    for rows in (0, 1):
        told = story([5, 6, 7 + rows], 5)
        assert tell_alone(Driver(executor), told).outputs == expected_outputs(told)


def test_warming_up_touches_the_null_page_only() -> None:
    executor, decoder = echo_executor(page_size=4)
    executor.warm_up()
    assert [batch.query_lens_host for batch in decoder.batches] == [(64,), (1,) * 6]
    for batch in decoder.batches:
        assert batch.slots.max() < 4
        assert not batch.page_table.any()
    told = story(range(5), 3)
    assert tell_alone(Driver(executor), told).outputs == expected_outputs(told)


def test_closing_twice_is_harmless() -> None:
    executor, _ = echo_executor()
    executor.trim([1, 2, 3])
    executor.close()
    executor.close()


def plan(**changes: Any) -> StepPlan:
    empty: dict[str, Any] = {name: [] for name in ("evictions", "moves", "admissions", "grants", "work")}
    return StepPlan(**{"step": 0, "window": (0, 2), **empty, **changes})


def admission(**changes: Any) -> Admission:
    usual = {
        "row": 0,
        "sequence": 0,
        "prompt_ids": list(range(6)),
        "output_ids": [],
        "params": SamplingParams(prompt_logprobs=1),
        "seed": 0,
        "bad_words_ids": [],
        "computed": 0,
        "pages": [1, 2],
    }
    return Admission(**{**usual, **changes})


def loaded() -> DeviceExecutor:
    executor, _ = echo_executor(num_rows=2, page_size=4)
    executor.start(plan(admissions=[admission()]))
    assert executor.finish().rows == []
    return executor


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (plan(work=[Work(0, 2, [1], 0)]), "0 tokens computed"),
        (plan(work=[Work(0, 0, [], 0)]), "work of 0 tokens"),
        (plan(work=[Work(0, 0, [1] * 9, 1)]), "too few pages"),
        (plan(work=[Work(0, 0, [1] * 8, 9)]), "too few pages"),
        (plan(work=[Work(0, 0, [], 1)] * 2), "planned twice"),
        (plan(work=[Work(1, 0, [], 1)]), "too few pages"),
        (plan(grants=[Grant(row=0, pages=[3] * 30)]), "would have 32 pages of 24"),
        (plan(moves=[Move(0, 9)]), "outside 0..1"),
        (plan(admissions=[admission(row=1, computed=4)]), "reports on its prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plans_that_do_not_fit_the_rows_are_refused(broken: StepPlan, message: str) -> None:
    with pytest.raises(InvariantError, match=message):
        loaded().start(broken)
