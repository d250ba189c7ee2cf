"""Taking in what an iteration brought: sequences advance, full pages become findable, those who are done leave.

Also what happens when an iteration raises: whose fault it is cannot be told from a fused batch, so everybody is
computed again, the suspects one at a time, and only the one that fails alone ends with an error.
"""

from __future__ import annotations

from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.engine.roster import Roster
from flover.engine.sequence import Sequence
from flover.errors import InvariantError
from flover.request import Delta, FinishReason

MAX_LONE_FAULTS = 2
"""A sequence that fails so often while it is alone ends with an error; once can be bad luck."""


def match_rows(plan: StepPlan, result: StepResult) -> dict[int, RowResult]:
    """The results by row. Raises `InvariantError` if they are not exactly what the plan asked for."""
    if result.step != plan.step:
        raise InvariantError(f"step {plan.step} was planned, the result is of step {result.step}")
    rows = {row.row: row for row in result.rows}
    if len(rows) != len(result.rows):
        raise InvariantError(f"step {plan.step}: a row has two results")
    sampling = {chunk.row for chunk in plan.chunks if chunk.samples} | set(plan.generating)
    sampled = {row.row for row in result.rows if row.token_id is not None}
    failed = {row.row for row in result.rows if row.error is not None}
    if not rows.keys() <= plan.busy_rows or not sampled <= sampling or not sampling <= sampled | failed:
        raise InvariantError(f"step {plan.step}: rows {sorted(sampling)} sample, results came for {sorted(rows)}")
    return rows


def commit(roster: Roster, plan: StepPlan, rows: dict[int, RowResult]) -> list[Delta]:
    """Advance every row of the plan; returns the deltas of those that have news."""
    seats = {sequence.row: sequence for sequence in roster.running}
    work = {chunk.row: len(chunk.token_ids) for chunk in plan.chunks} | dict.fromkeys(plan.generating, 1)
    roster.counts["iterations"] += 1
    roster.counts["iteration_rows"] += len(plan.generating)
    roster.counts["prompt_tokens"] += plan.chunk_tokens
    deltas = [_advance(roster, seats[row], count, rows.get(row)) for row, count in sorted(work.items())]
    return [delta for delta in deltas if delta is not None]


def _advance(roster: Roster, sequence: Sequence, count: int, result: RowResult | None) -> Delta | None:
    if result is not None and result.error is not None:
        return roster.end(sequence, FinishReason.ERROR, error=result.error)
    sequence.computed += count
    _publish(roster, sequence)
    if result is None:
        return None
    sequence.prompt_logprobs += result.prompt_logprobs or []
    if result.token_id is None:
        return None
    news = _append(sequence, result, result.token_id)
    roster.counts["generation_tokens"] += 1
    if sequence in roster.suspects:
        roster.suspects.remove(sequence)
    ending = sequence.ending(roster.config.eos_ids, roster.config.max_model_len)
    if ending is None:
        return news
    reason, stop_reason = ending
    return roster.end(sequence, reason, stop_reason=stop_reason, news=news)


def _append(sequence: Sequence, result: RowResult, token_id: int) -> Delta:
    report = sequence.prompt_logprobs if sequence.wants_prompt_logprobs else None
    sequence.token_ids.append(token_id)
    sequence.prompt_logprobs = []
    return Delta(
        request_id=sequence.request.id,
        index=sequence.index,
        token_ids=[token_id],
        logprobs=[result.logprobs] if result.logprobs is not None else None,
        prompt_logprobs=report,
        cached_tokens=sequence.cached_tokens,
    )


def _publish(roster: Roster, sequence: Sequence) -> None:
    """Make the pages that have just become full findable."""
    size = roster.config.page_size
    for number in range(len(sequence.chain), sequence.computed // size):
        token_ids = tuple(sequence.token_ids[number * size : (number + 1) * size])
        parent = sequence.chain[-1] if sequence.chain else roster.root(sequence.request)
        entry = roster.prefix.publish(parent, token_ids, sequence.pages[number])
        if entry is None:
            return
        sequence.chain.append(entry)


def recover(roster: Roster, plan: StepPlan, message: str) -> list[Delta]:
    """A plan failed as a whole. The device has been reset: nothing that was in its pages counts any more."""
    busy = plan.busy_rows
    involved = [sequence for sequence in roster.running if sequence.row in busy]
    roster.counts["faults"] += 1
    for sequence in list(roster.running):
        roster.preempt(sequence)
    roster.pool.drop_cached()
    roster.rows.clear()
    if len(involved) > 1:
        roster.suspects = involved
        return []
    return [delta for sequence in involved if (delta := _blame(roster, sequence, message)) is not None]


def _blame(roster: Roster, sequence: Sequence, message: str) -> Delta | None:
    """An iteration raised with nobody else in it."""
    sequence.faults += 1
    if sequence.faults >= MAX_LONE_FAULTS:
        return roster.end(sequence, FinishReason.ERROR, error=message)
    if sequence not in roster.suspects:
        roster.suspects.append(sequence)
    return None
