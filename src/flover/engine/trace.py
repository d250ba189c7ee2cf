"""`--trace FILE`: a running engine's schedule on disk, for the eye in FILE, for `flover replay` in FILE.replay.

Two files, because they go different ways: the picture is what people pass around and upload, and must not hold
anybody's prompt; the record must, to the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from flover.config import EngineConfig
from flover.engine.lanes import Event, Lanes
from flover.engine.loop import Engine
from flover.engine.record import Recorder
from flover.engine.roster import Roster
from flover.engine.spool import Sink, Spool
from flover.engine.timeline import Timeline
from flover.request import Delta

REPLAY_SUFFIX = ".replay"


class Picture(Timeline):
    """Draws every iteration: a JSON array of events, which may lack its end, as readers of this format accept."""

    def __init__(self, lanes: Lanes, sink: Sink) -> None:
        super().__init__()
        self._lanes = lanes
        self._sink = sink
        self._encode = msgspec.json.Encoder().encode
        first, *others = lanes.opening()
        sink.put(b"[\n" + self._encode(first))
        self._draw(others)

    def stepped(self, roster: Roster, deltas: Sequence[Delta]) -> None:
        """Draw the iteration of this step."""
        super().stepped(roster, deltas)
        iteration = self.take()
        if iteration is not None:
            self._draw(self._lanes.events(iteration))

    def close(self) -> None:
        """End the slices and the array."""
        self._draw(self._lanes.closing())
        self._sink.put(b"\n]\n")
        self._sink.close()

    def _draw(self, events: Sequence[Event]) -> None:
        self._sink.put(b"".join(b",\n" + self._encode(event) for event in events))


class Trace:
    """The two files of an engine that is about to be made. Raises `ConfigError` if they cannot be written."""

    def __init__(self, path: Path) -> None:
        self._picture = Spool(path, "--trace")
        self._recorder = Recorder(Spool(replay_path(path), "--trace"))

    def clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        """The clock that the engine has to use, so that its readings are recorded."""
        return self._recorder.clock(clock)

    def attach(self, engine: Engine, config: EngineConfig) -> None:
        """Trace this engine from now on until it closes."""
        scheduler, facts = engine.roster.config, engine.facts
        self._recorder.begin(config, scheduler, facts)
        engine.observe(self._recorder)
        engine.observe(Picture(Lanes(facts, scheduler.max_num_seqs), self._picture))


def replay_path(path: Path) -> Path:
    """Where the record of a trace lies."""
    return path.with_name(path.name + REPLAY_SUFFIX)
