"""`--trace FILE`: a running engine's schedule on disk, for the eye in FILE, for `flover replay` in FILE.replay.

Two files, because they go different ways: the picture is what people pass around and upload, and must not hold
anybody's prompt; the record must, to the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.engine.observer import Observer
from flover.observe.background_writer import BackgroundWriter, Source
from flover.observe.perfetto import Event, Lanes
from flover.observe.record import ScheduleRecorder
from flover.observe.timeline import Timeline

REPLAY_SUFFIX = ".replay"
_STEPS_AT_ONCE = 16


class Picture:
    """Draws every iteration: a JSON array of events, which may lack its end, as readers of this format accept."""

    def __init__(self, lanes: Lanes, timeline: Timeline) -> None:
        self._lanes = lanes
        self._timeline = timeline
        self._encode = msgspec.json.Encoder().encode
        self._begun = False

    def read(self) -> bytes:
        """The events of a few iterations."""
        if not self._begun:
            self._begun = True
            first, *others = self._lanes.opening()
            return b"[\n" + self._encode(first) + self._events(others)
        return b"".join(self._events(self._lanes.events(one)) for one in self._timeline.take(_STEPS_AT_ONCE))

    def end(self) -> bytes:
        """Ends the slices and the array."""
        return self._events(self._lanes.closing()) + b"\n]\n"

    def _events(self, events: Iterable[Event]) -> bytes:
        return b"".join(b",\n" + self._encode(event) for event in events)


class _End(Observer):
    """Closes the files when the engine closes."""

    def __init__(self, *writers: BackgroundWriter) -> None:
        self._spools = writers

    def close(self) -> None:
        for writer in self._spools:
            writer.close()


class Trace:
    """The two files of an engine that is about to be made. Raises `ConfigError` if they cannot be written."""

    def __init__(self, path: Path) -> None:
        self._picture = BackgroundWriter(path, "--trace")
        self._record = BackgroundWriter(replay_path(path), "--trace")
        self._recorder = ScheduleRecorder()

    def clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        """The clock that the engine has to use, so that its readings are recorded."""
        return self._recorder.clock(clock)

    def attach(self, engine: Engine, config: EngineConfig) -> None:
        """Trace this engine from now on until it closes."""
        scheduler, facts = engine.roster.config, engine.facts
        timeline = Timeline()
        self._recorder.begin(config, scheduler, facts)
        picture: Source = Picture(Lanes(facts, scheduler.max_num_seqs), timeline)
        for writer, source in ((self._picture, picture), (self._record, self._recorder)):
            writer.start(source)
        for observer in (self._recorder, timeline, _End(self._picture, self._record)):
            engine.observe(observer)


def replay_path(path: Path) -> Path:
    """Where the record of a trace lies."""
    return path.with_name(path.name + REPLAY_SUFFIX)
