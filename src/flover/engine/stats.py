"""Counters and gauges of the engine, made into one snapshot per iteration."""

from __future__ import annotations

import msgspec

from flover.engine.plan import StepPlan
from flover.engine.roster import Roster
from flover.request import FinishReason


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the engine after an iteration; counters only grow."""

    step: int = 0
    running: int = 0  # rows alive
    waiting: int = 0
    generating: int = 0  # rows that generated in the last iteration
    chunk_tokens: int = 0  # prompt tokens of the last iteration
    step_ms: float = 0.0  # duration of the last iteration
    pages_used: int = 0
    pages_cached: int = 0  # unused but still holding a reusable prefix
    pages_total: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens taken from the prefix cache
    queried_tokens: int = 0  # prompt tokens looked up in the prefix cache
    offload_slots: int = 0  # of the host tier
    offload_slots_used: int = 0
    offload_tokens: int = 0  # tokens whose pages were loaded from the host tier
    offload_stored_bytes: int = 0
    offload_loaded_bytes: int = 0
    offload_errors: int = 0  # times that the host tier was given up
    drafts: int = 0  # rows for which tokens were proposed, summed over iterations
    draft_tokens: int = 0  # tokens proposed
    accepted_tokens: int = 0  # of these, those that were sampled
    preemptions: int = 0
    row_moves: int = 0
    iterations: int = 0
    iteration_rows: int = 0  # generating rows, summed over iterations: the mean fused width is the quotient
    finished: dict[str, int] = {}  # sequences ended, by finish reason
    faults: int = 0  # iterations that raised
    compilations: int = 0  # kernels of a GPU that were compiled while it served: the warm-up should leave none
    busy_seconds: float = 0.0  # from step to step, as long as there was a sequence
    kernel_seconds: float = 0.0  # of these, spent in kernels; the rest is the host's

    def plus(self, other: EngineStats) -> EngineStats:
        """Two engines as one."""
        mine, theirs = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        both = {name: mine[name] + theirs[name] for name in mine if name not in ("finished", "step_ms")}
        reasons = self.finished.keys() | other.finished.keys()
        finished = {reason: self.finished.get(reason, 0) + other.finished.get(reason, 0) for reason in reasons}
        return EngineStats(**both, finished=finished, step_ms=max(self.step_ms, other.step_ms))

    def past(self) -> EngineStats:
        """What stays of an engine that is gone: its counters."""
        return msgspec.structs.replace(self, **dict.fromkeys(_GAUGES, 0))


_COUNTED = (  # under the names that the roster has for them
    *("prompt_tokens", "generation_tokens", "cached_tokens", "queried_tokens", "preemptions", "row_moves"),
    *("iterations", "iteration_rows", "faults", "compilations", "drafts", "draft_tokens", "accepted_tokens"),
    "offload_errors",
)
_GAUGES = (
    *("running", "waiting", "generating", "chunk_tokens", "step_ms", "pages_used", "pages_cached", "pages_total"),
    *("offload_slots", "offload_slots_used"),
)


class Times:
    """Where the seconds of the loop go. A step lasts from plan to plan, as long as there is a sequence."""

    def __init__(self) -> None:
        self.busy = 0.0
        self.kernels = 0.0
        self._since: float | None = None

    def begin(self, now: float) -> None:
        """An iteration is about to be planned."""
        self._since = now if self._since is None else self._since

    def ran(self, now: float, kernels: float) -> None:
        """The iteration has been carried out, `kernels` seconds of it in kernels."""
        self.busy += now - (now if self._since is None else self._since)
        self._since = now
        self.kernels += kernels

    def rest(self) -> None:
        """The next iteration will not follow at once."""
        self._since = None


def snapshot(roster: Roster, last: StepPlan | None, milliseconds: float, times: Times) -> EngineStats:
    """As it is after the iteration `last`, which took so long."""
    counts, pool, tier, config = roster.counts, roster.pool, roster.prefix.tier, roster.config
    return EngineStats(
        step=last.step + 1 if last else 0,
        generating=len(last.generating) if last else 0,
        chunk_tokens=last.chunk_tokens if last else 0,
        step_ms=milliseconds,
        running=len(roster.running),
        waiting=len(roster.waiting),
        pages_used=pool.used,
        pages_cached=pool.cached,
        pages_total=pool.total,
        offload_slots=tier.num_slots,
        offload_slots_used=tier.used,
        offload_tokens=tier.loaded * config.page_size,
        offload_stored_bytes=tier.stored * config.page_bytes,
        offload_loaded_bytes=tier.loaded * config.page_bytes,
        finished={str(reason): counts[f"finished:{reason}"] for reason in FinishReason},
        busy_seconds=times.busy,
        kernel_seconds=times.kernels,
        **{name: counts[name] for name in _COUNTED},
    )
