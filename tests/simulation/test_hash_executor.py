"""The device of the simulation finds what it is there to find: plans written by hand, some of them wrong."""

from __future__ import annotations

import pytest

from flover.engine.plan import Admission, Chunk, Grant, Move, RowResult, StepPlan
from flover.request import ModelFacts, Request, SamplingParams

from .broken import LawBroken
from .hash_executor import HashExecutor
from .hash_model import alone, extend, value_of

PROMPT = [5, 6, 7, 8, 9]
FACTS = ModelFacts(
    model="hash",
    architecture="HashModel",
    dtype="uint64",
    vocab_size=1000,
    max_model_len=64,
    pool_tokens=32,
    page_size=4,
    eos_ids=[],
)


def device(*, reorder: bool = True) -> HashExecutor:
    return HashExecutor(FACTS, max_num_seqs=4, reorder=reorder)


def admit(row: int, pages: list[int], *, computed: int = 0, prompt: list[int] = PROMPT) -> Admission:
    return Admission(
        row=row,
        sequence=row,
        prompt_ids=prompt,
        output_ids=[],
        params=SamplingParams(max_tokens=9),
        seed=row,
        bad_words_ids=[],
        computed=computed,
        pages=pages,
    )


def plan(step: int, *, rows: int, **fields: object) -> StepPlan:
    empty: dict[str, object] = {
        "evictions": [],
        "moves": [],
        "admissions": [],
        "grants": [],
        "chunks": [],
        "generating": [],
    }
    return StepPlan(step=step, window=(0, rows), **(empty | fields))  # type: ignore[arg-type]


def whole(row: int, start: int = 0) -> Chunk:
    return Chunk(row=row, start=start, token_ids=PROMPT[start:], samples=True)


def expected(row: int) -> list[int]:
    request = Request(id="", prompt_ids=PROMPT, params=SamplingParams(max_tokens=9), seed=row)
    return alone(request, 0, FACTS).token_ids


def tokens(results: list[RowResult]) -> dict[int, int | None]:
    return {result.row: result.token_id for result in results}


def test_what_a_slot_holds_depends_on_all_that_is_before_it() -> None:
    values, memory = extend(0, PROMPT, 0)
    swapped, other = extend(0, [6, 5, 7, 8, 9], 0)
    assert memory != other
    assert not set(values[1:]) & set(swapped[1:])
    assert values[0] == value_of(0, PROMPT[0], 0)


def test_chunks_and_moves_yield_the_tokens_of_the_sequence_alone() -> None:
    run = device().run
    first = Chunk(row=0, start=0, token_ids=PROMPT[:2], samples=False)
    assert run(plan(0, rows=2, admissions=[admit(0, [1, 2]), admit(1, [3, 4])], chunks=[first, whole(1)])).rows == [
        RowResult(row=1, token_id=expected(1)[0])
    ]
    assert tokens(run(plan(1, rows=2, chunks=[whole(0, 2)], generating=[1])).rows) == {
        0: expected(0)[0],
        1: expected(1)[1],
    }
    # Row 0 leaves, row 1 takes its place, and needs a third page for its ninth token.
    run(plan(2, rows=1, evictions=[0], moves=[Move(1, 0)], generating=[0]))
    run(plan(3, rows=1, generating=[0]))
    last = run(plan(4, rows=1, grants=[Grant(row=0, pages=[1])], generating=[0]))
    assert tokens(last.rows) == {0: expected(1)[4]}


def test_a_computed_prefix_can_be_shared_and_gives_the_same_tokens() -> None:
    run = device().run
    run(plan(0, rows=1, admissions=[admit(0, [1, 2])], chunks=[whole(0)]))
    shared = run(plan(1, rows=2, admissions=[admit(1, [1, 3], computed=4)], chunks=[whole(1, 4)], generating=[0]))
    assert tokens(shared.rows)[1] == expected(1)[0]


def test_a_prefix_that_is_not_written_yet_is_poison() -> None:
    both = [admit(0, [1, 2]), admit(1, [1, 3], computed=4)]
    with pytest.raises(LawBroken, match="L7: sequence 1 reads poison in page 1 offset 0, wants token 5 at position 0"):
        device().run(plan(0, rows=2, admissions=both, chunks=[whole(0), whole(1, 4)]))


def test_a_foreign_prefix_is_named() -> None:
    run = device().run
    run(plan(0, rows=1, admissions=[admit(0, [1, 2])], chunks=[whole(0)]))
    other = [5, 6, 1, 8, 9]
    chunk = Chunk(row=1, start=4, token_ids=other[4:], samples=True)
    with pytest.raises(LawBroken, match="reads token 7 at position 2 in page 1 offset 2, wants token 1 at position 2"):
        run(plan(1, rows=2, admissions=[admit(1, [1, 3], computed=4, prompt=other)], chunks=[chunk], generating=[0]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (plan(2, rows=1, generating=[0]), "step 2 follows step 0"),
        (plan(1, rows=1, generating=[1]), "row 1 is used but not alive"),
        (plan(1, rows=1, evictions=[3]), "row 3 is evicted but not alive"),
        (plan(1, rows=2, admissions=[admit(1, [2, 3])], chunks=[whole(1)]), "given page 2, which is somebody's"),
        (plan(1, rows=2, admissions=[admit(1, [0, 3])], chunks=[whole(1)]), "given page 0"),
        (plan(1, rows=2, admissions=[admit(1, [8, 9])], chunks=[whole(1)]), "given page 9"),
        (plan(1, rows=3, admissions=[admit(2, [3, 4])], chunks=[whole(2)]), "rows are not dense"),
        (plan(1, rows=1, admissions=[admit(0, [3, 4])], chunks=[whole(0)]), "admitted to but alive"),
        (plan(1, rows=2, admissions=[admit(1, [3])], chunks=[whole(1)]), "5 tokens, pages for 4"),
        (plan(1, rows=2, admissions=[admit(1, [1, 3], computed=3)], chunks=[whole(1, 3)]), "ends inside a page"),
        (plan(1, rows=1, chunks=[whole(0)]), "chunk at 0, 5 are computed"),
        (plan(1, rows=1, moves=[Move(0, 1)]), "have to move"),
        (plan(1, rows=1, generating=[0, 0]), "appears twice"),
        (plan(1, rows=2, generating=[0]), "window"),
    ],
)
def test_a_plan_that_breaks_the_rules_is_refused(wrong: StepPlan, words: str) -> None:
    run = device().run
    run(plan(0, rows=1, admissions=[admit(0, [1, 2])], chunks=[whole(0)]))
    with pytest.raises(LawBroken, match=words):
        run(wrong)


def test_a_failed_device_computes_nothing_until_it_is_reset() -> None:
    failed = device()
    failed.fail(0)
    with pytest.raises(LawBroken, match="was not reset"):
        failed.run(plan(1, rows=0))
    failed.reset()
    assert failed.run(plan(1, rows=0)).rows == []
