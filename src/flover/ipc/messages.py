"""What crosses the socket between the door and the engine process: closed types, msgpack, length-prefixed.

No pickle anywhere: a frame that is not one of these types ends the connection. A frame is a 4-byte big-endian
length and that many bytes of msgpack; the length is checked before anything is allocated.
"""

from __future__ import annotations

import msgspec

from flover.config import EngineConfig
from flover.engine.queue import Cancel, Submit
from flover.engine.stats import EngineStats
from flover.observe.timeline import Iteration
from flover.request import Delta, ModelFacts

MAX_FRAME_BYTES = 64 * 2**20


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Door to engine, first frame: load this."""

    config: EngineConfig


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
