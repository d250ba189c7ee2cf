"""What crosses the socket between the door and the engine process: closed types, msgpack, length-prefixed.

No pickle anywhere: a frame that is not one of these types ends the connection. A frame is a 4-byte big-endian
length and that many bytes of msgpack; the length is checked before anything is allocated.
"""

from __future__ import annotations

import msgspec

from flover.config import EngineConfig
from flover.engine.timeline import Iteration
from flover.request import Delta, ModelFacts, Request

MAX_FRAME_BYTES = 64 * 2**20


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Door to engine, first frame: load this."""

    config: EngineConfig


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """Door to engine: a checked request."""

    request: Request


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Door to engine: end this request's sequence `index`, or all of its sequences (index None)."""

    request_id: str
    index: int | None = None


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """Door to engine: from now on news tell of iterations, or no longer do."""

    on: bool


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Door to engine: end the process now; open sequences end with `abort`."""


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Engine to door: how far loading is, `done` of `total` bytes of weights."""

    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Engine to door: requests may come."""

    facts: ModelFacts


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
    preemptions: int = 0
    row_moves: int = 0
    iterations: int = 0
    iteration_rows: int = 0  # generating rows, summed over iterations: the mean fused width is the quotient
    finished: dict[str, int] = {}  # sequences ended, by finish reason
    faults: int = 0  # iterations that raised
    busy_seconds: float = 0.0  # from step to step, as long as somebody was here
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


_GAUGES = ("running", "waiting", "generating", "chunk_tokens", "step_ms", "pages_used", "pages_cached", "pages_total")


class News(msgspec.Struct, frozen=True, tag="news"):
    """Engine to door: what one iteration brought."""

    deltas: list[Delta]
    stats: EngineStats
    iterations: list[Iteration] = []  # since the last news that had some; only while somebody watches


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Engine to door: this request cannot be served (the door's own check should have said so)."""

    request_id: str
    message: str
    param: str | None = None
    code: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Engine to door, last frame: loading or running failed; `kind` is "model", "config", "resources" or "engine"."""

    kind: str
    message: str


ToEngine = Start | Submit | Cancel | Watch | Stop
FromEngine = Loading | Ready | News | Refused | Failed
