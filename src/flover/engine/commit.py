"""Taking in what an iteration brought: sequences advance, full pages become findable, finished sequences leave.

Also what happens when an iteration raises: which request caused it cannot be told from a fused batch, so every
sequence is computed again, the suspects one at a time, and only one that fails alone ends with an error.
"""

from __future__ import annotations

from flover.engine.plan import RowResult, StepPlan, StepResult, Work
from flover.engine.roster import InFlight, Roster
from flover.engine.sequence import NOT_ENDED, Sequence
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
    wanted = {work.row: work.num_samples for work in plan.work}
    for row, most in wanted.items():
        found = rows.get(row, RowResult(row=row))
        if found.error is None and not min(most, 1) <= len(found.token_ids) <= most:
            raise InvariantError(
                f"step {plan.step}: row {row} samples {most} times and has {len(found.token_ids)} tokens in the result"
            )
    if not rows.keys() <= wanted.keys():
        raise InvariantError(f"step {plan.step}: rows {sorted(wanted)} are planned, results came for {sorted(rows)}")
    return rows


def commit(roster: Roster, landed: InFlight, rows: dict[int, RowResult]) -> list[Delta]:
    """Advance every row of a plan that is finished; returns the deltas of those that got something. A sequence that
    left while the plan was in flight is passed over: what was computed for it is thrown away."""
    plan = landed.plan
    roster.counts["iterations"] += 1
    roster.counts["iteration_rows"] += len(plan.generating)
    roster.counts["prompt_tokens"] += plan.chunk_tokens
    deltas = [
        _advance(roster, sequence, work, rows.get(work.row) or RowResult(row=work.row))
        for work, sequence in zip(plan.work, landed.sequences, strict=True)
        if sequence.row is not None
    ]
    return [delta for delta in deltas if delta is not None]


def _advance(roster: Roster, sequence: Sequence, work: Work, result: RowResult) -> Delta | None:
    if result.error is not None:
        return roster.end(sequence, FinishReason.ERROR, result.error)
    if result.prompt_logprobs is not None:
        sequence.prompt_logprobs += result.prompt_logprobs
    delta = _append(roster, sequence, result) if result.token_ids else None
    taken = 0 if delta is None else len(delta.token_ids)
    # The tokens behind a proposal that was refused, or behind the end, do not count.
    sequence.computed += work.num_tokens - work.num_samples + taken
    _publish(roster, sequence)
    if delta is None:
        return None
    roster.counts["generation_tokens"] += taken
    if work.generates and (drafted := len(work.token_ids)):
        roster.counts.update(drafts=1, draft_tokens=drafted, accepted_tokens=len(result.token_ids) - 1)
    if result.proposals and sequence.drafter is not None:
        sequence.drafter.take(len(sequence.token_ids), result.proposals)
    if sequence in roster.suspects:
        roster.suspects.remove(sequence)
    if delta.finish_reason is not None:
        roster.leave(sequence, delta.finish_reason)
    return delta


def _append(roster: Roster, sequence: Sequence, result: RowResult) -> Delta:
    """Take the row's tokens, up to the one that ends the sequence."""
    report = sequence.prompt_logprobs if sequence.wants_prompt_logprobs else None
    before, ending = len(sequence.token_ids), NOT_ENDED
    for token_id in result.token_ids:
        sequence.token_ids.append(token_id)
        ending = sequence.ending(roster.config.eos_ids, roster.config.max_model_len)
        if ending is not NOT_ENDED:
            break
    taken = sequence.token_ids[before:]
    sequence.prompt_logprobs = []
    reason, stop_reason = ending
    return Delta(
        request_id=sequence.request.id,
        index=sequence.index,
        token_ids=taken,
        logprobs=result.logprobs[: len(taken)] if result.logprobs is not None else None,
        prompt_logprobs=report,
        finish_reason=reason,
        stop_reason=stop_reason,
        cached_tokens=sequence.cached_tokens or 0,
        embedding=result.embedding,
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


def recover(roster: Roster, message: str) -> list[Delta]:
    """A plan failed as a whole; any plan in flight may be the cause. The device has been reset: nothing that was in its
    pages counts any more."""
    computed = {sequence for one in roster.in_flight for sequence in one.sequences}
    involved = [sequence for sequence in roster.running if sequence in computed]
    roster.counts["faults"] += 1
    roster.abandon()
    for sequence in list(roster.running):
        roster.preempt(sequence)
    roster.pool.drop_cached()
    roster.rows.clear()
    if len(involved) == 1:
        involved[0].faults += 1
        if involved[0].faults >= MAX_LONE_FAULTS:
            return [roster.end(involved[0], FinishReason.ERROR, message)]
    roster.suspects += [sequence for sequence in involved if sequence not in roster.suspects]
    return []
