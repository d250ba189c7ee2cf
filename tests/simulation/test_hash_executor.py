"""The device of the simulation finds what it is there to find: plans written by hand, some of them wrong."""

from __future__ import annotations

import pytest
from support.facts import model_facts

from flover.engine.plan import Admission, Grant, Move, RowResult, StepPlan, Work
from flover.request import Request, SamplingParams

from .broken import LawBroken
from .hash_executor import HashExecutor
from .hash_model import alone, extend, value_of

PROMPT = [5, 6, 7, 8, 9]
FACTS = model_facts(vocab_size=1000, max_model_len=64, pool_tokens=32, page_size=4)


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


def plan(step: int, *work: Work, rows: int, **fields: object) -> StepPlan:
    empty: dict[str, object] = {"evictions": [], "moves": [], "admissions": [], "grants": []}
    return StepPlan(step=step, window=(0, rows), work=list(work), **(empty | fields))  # type: ignore[arg-type]


def whole(row: int, start: int = 0) -> Work:
    return Work(row, start, PROMPT[start:], 1)


def generate(row: int, start: int, *proposals: int) -> Work:
    return Work(row, start, list(proposals), len(proposals) + 1)


def expected(row: int) -> list[int]:
    request = Request(id="", prompt_ids=PROMPT, params=SamplingParams(max_tokens=9), seed=row)
    return alone(request, 0, FACTS).token_ids


def tokens(results: list[RowResult]) -> dict[int, list[int]]:
    return {result.row: result.token_ids for result in results}


def test_what_a_slot_holds_depends_on_all_that_is_before_it() -> None:
    values, memory = extend(0, PROMPT, 0)
    swapped, other = extend(0, [6, 5, 7, 8, 9], 0)
    assert memory != other
    assert not set(values[1:]) & set(swapped[1:])
    assert values[0] == value_of(0, PROMPT[0], 0)


def test_chunks_and_moves_yield_the_tokens_of_the_sequence_alone() -> None:
    run = device().run
    first = Work(0, 0, PROMPT[:2], 0)
    assert run(plan(0, first, whole(1), rows=2, admissions=[admit(0, [1, 2]), admit(1, [3, 4])])).rows == [
        RowResult(row=1, token_ids=expected(1)[:1])
    ]
    assert tokens(run(plan(1, whole(0, 2), generate(1, 5), rows=2)).rows) == {0: expected(0)[:1], 1: expected(1)[1:2]}
    # Row 0 leaves, row 1 is moved there, and needs a third page for its ninth token.
    run(plan(2, generate(0, 6), rows=1, evictions=[0], moves=[Move(1, 0)]))
    run(plan(3, generate(0, 7), rows=1))
    last = run(plan(4, generate(0, 8), rows=1, grants=[Grant(row=0, pages=[1])]))
    assert tokens(last.rows) == {0: expected(1)[4:5]}


@pytest.mark.parametrize("right", range(4))
def test_proposals_bring_the_tokens_of_the_sequence_alone(right: int) -> None:
    """As many as were right, and one more; what was computed for the others is void."""
    run, wanted = device().run, expected(0)
    run(plan(0, whole(0), rows=1, admissions=[admit(0, [1, 2, 3])]))
    proposed = wanted[1 : 1 + right] + [wanted[1 + right] + 1] * (3 - right)
    found = tokens(run(plan(1, generate(0, 5, *proposed), rows=1)).rows)
    assert found == {0: wanted[1 : 2 + right]}
    assert tokens(run(plan(2, generate(0, 6 + right), rows=1)).rows) == {0: wanted[2 + right : 3 + right]}


def test_a_computed_prefix_can_be_shared_and_gives_the_same_tokens() -> None:
    run = device().run
    run(plan(0, whole(0), rows=1, admissions=[admit(0, [1, 2])]))
    shared = run(plan(1, generate(0, 5), whole(1, 4), rows=2, admissions=[admit(1, [1, 3], computed=4)]))
    assert tokens(shared.rows)[1] == expected(1)[:1]


def test_a_prefix_that_is_not_written_yet_is_poison() -> None:
    both = [admit(0, [1, 2]), admit(1, [1, 3], computed=4)]
    with pytest.raises(LawBroken, match="L7: sequence 1 reads poison in page 1 offset 0, wants token 5 at position 0"):
        device().run(plan(0, whole(0), whole(1, 4), rows=2, admissions=both))


def test_a_foreign_prefix_is_named() -> None:
    run = device().run
    run(plan(0, whole(0), rows=1, admissions=[admit(0, [1, 2])]))
    other = [5, 6, 1, 8, 9]
    admission = admit(1, [1, 3], computed=4, prompt=other)
    with pytest.raises(LawBroken, match="reads token 7 at position 2 in page 1 offset 2, wants token 1 at position 2"):
        run(plan(1, generate(0, 5), Work(1, 4, other[4:], 1), rows=2, admissions=[admission]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (plan(2, generate(0, 5), rows=1), "step 2 follows step 0"),
        (plan(1, generate(1, 5), rows=1), "row 1 is used but not alive"),
        (plan(1, rows=1, evictions=[3]), "row 3 is evicted but not alive"),
        (plan(1, whole(1), rows=2, admissions=[admit(1, [2, 3])]), "given page 2, which is another row's"),
        (plan(1, whole(1), rows=2, admissions=[admit(1, [0, 3])]), "given page 0"),
        (plan(1, whole(1), rows=2, admissions=[admit(1, [8, 9])]), "given page 9"),
        (plan(1, whole(2), rows=3, admissions=[admit(2, [3, 4])]), "rows are not dense"),
        (plan(1, whole(0), rows=1, admissions=[admit(0, [3, 4])]), "admitted to but alive"),
        (plan(1, whole(1), rows=2, admissions=[admit(1, [3])]), "5 tokens, pages for 4"),
        (plan(1, whole(1, 3), rows=2, admissions=[admit(1, [1, 3], computed=3)]), "ends inside a page"),
        (plan(1, whole(0), rows=1), "work at 0, 5 are computed"),
        (plan(1, generate(0, 5, 1, 2, 3), rows=1), "9 tokens, pages for 8"),
        (plan(1, Work(0, 5, [], 2), rows=1), "row 0: 2 samples"),
        (plan(1, Work(0, 5, [1], 1), rows=1), r"chunk \[1\] instead of"),
        (plan(1, rows=1, moves=[Move(0, 1)]), "have to move"),
        (plan(1, generate(0, 5), generate(0, 5), rows=1), "appears twice"),
        (plan(1, generate(0, 5), rows=2), "window"),
    ],
)
def test_a_plan_that_breaks_the_rules_is_refused(wrong: StepPlan, words: str) -> None:
    run = device().run
    run(plan(0, whole(0), rows=1, admissions=[admit(0, [1, 2])]))
    with pytest.raises(LawBroken, match=words):
        run(wrong)


def test_a_failed_device_computes_nothing_until_it_is_reset() -> None:
    failed = device()
    failed.fail(0)
    with pytest.raises(LawBroken, match="was not reset"):
        failed.run(plan(1, rows=0))
    failed.reset()
    assert failed.run(plan(1, rows=0)).rows == []
