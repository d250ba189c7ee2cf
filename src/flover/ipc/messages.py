"""The messages between the server and an engine process: closed types, msgpack, length-prefixed.

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
from flover.structured_outputs import Vocabulary

MAX_FRAME_BYTES = 64 * 2**20


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Server to engine, first frame: load this."""

    config: EngineConfig


class UseVocabulary(msgspec.Struct, frozen=True, tag="vocabulary"):
    """Server to engine, once, before the first request with structured outputs; `prepare` if it is to be read at once,
    before any message that follows."""

    vocabulary: Vocabulary
    prepare: bool = False


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """Server to engine: from now on outputs describe iterations, or no longer do."""

    on: bool


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Server to engine: end the process now; open sequences end with `abort`."""


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Engine to server: how far loading is, `done` of `total` bytes of weights, or of what `counted` says."""

    done: int
    total: int
    counted: str = ""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Engine to server: requests may come."""

    facts: ModelFacts


class EngineOutputs(msgspec.Struct, frozen=True, tag="outputs"):
    """Engine to server: the deltas and counters of one iteration; sent while idle too, as a heartbeat."""

    deltas: list[Delta]
    stats: EngineStats
    iterations: list[Iteration] = []  # since the last message that had some; only while watched


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Engine to server: this request cannot be served (the server's own check should have refused it)."""

    request_id: str
    message: str
    param: str | None = None
    code: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Engine to server, last frame: loading or running failed; `kind` is "model", "config", "resources" or "engine"."""

    kind: str
    message: str


ToEngine = Start | UseVocabulary | Submit | Cancel | Watch | Stop
FromEngine = Loading | Ready | EngineOutputs | Refused | Failed
