"""The results of rows: tokens, and what they get beside them: log-probabilities of a prompt, an embedding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from flover.engine.plan import RowResult, Work
from flover.model.sampling import Sampled
from flover.model.sampling.sampler import NO_TOKEN


def add_tokens(sampled: Sampled, work: list[Work], results: dict[int, RowResult]) -> list[int]:
    """Add the token of each row of `work` to what it has in `results`. Returns the tokens."""
    tokens: list[int] = sampled.token_ids.tolist()
    for place, (one, token) in enumerate(zip(work, tokens, strict=True)):
        before = results.get(one.row)
        entry = sampled.logprobs.get(place)
        entries = None if entry is None else [entry]
        if before is None and token == NO_TOKEN:
            results[one.row] = RowResult(row=one.row, error=sampled.errors[place])
        elif before is None:
            results[one.row] = RowResult(row=one.row, token_ids=[token], logprobs=entries)
        elif token != NO_TOKEN:
            before.token_ids.append(token)
            if before.logprobs is not None and entry is not None:
                before.logprobs.append(entry)
    return tokens


def with_reports(results: dict[int, RowResult], reports: Iterable[RowResult]) -> list[RowResult]:
    """The results of an iteration in the order of rows, with the reports in them. An error stays alone."""
    for report in reports:
        before = results.get(report.row)
        if before is None:
            results[report.row] = report
        elif report.error is not None:
            results[report.row] = RowResult(row=report.row, error=before.error or report.error)
        elif before.error is None:
            results[report.row] = msgspec.structs.replace(
                before,
                prompt_logprobs=report.prompt_logprobs
                if report.prompt_logprobs is not None
                else before.prompt_logprobs,
                embedding=report.embedding if report.embedding is not None else before.embedding,
            )
    return [results[row] for row in sorted(results)]


def with_proposals(rows: list[RowResult], proposals: Mapping[int, list[int]]) -> list[RowResult]:
    """The results with a draft model's proposals, by row."""
    return [msgspec.structs.replace(one, proposals=proposals[one.row]) if one.row in proposals else one for one in rows]
