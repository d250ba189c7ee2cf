"""What ended requests cost, without content: the time of each by parts, and a file of usage (`--usage-log`)."""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from flover.errors import ConfigError
from flover.server.generation import Generation

MAX_TIMELINES = 1024
"""Ended requests whose timelines are kept."""
MAX_WAITING_LINES = 2**16
"""Lines that may wait for a slow disk; further ones are lost, and counted."""
CLIENT_CHARS = 16
"""Of the salt of a key, enough to tell clients apart."""

logger = logging.getLogger(__name__)


def intervals(began: float, marks: Sequence[tuple[str, float | None]]) -> list[dict[str, Any]]:
    """The time from `began` by parts, in whole microseconds: each ends at its mark (seconds of one clock), and what
    never happened is left out. They have no gaps, so they add up to the last mark."""
    found, start = [], 0
    for name, mark in marks:
        if mark is not None:
            end = max(start, round((mark - began) * 1e6))
            found.append({"name": name, "start_us": start, "duration_us": end - start})
            start = end
    return found


def intervals_of(began: float, now: float, generation: Generation) -> list[dict[str, Any]]:
    """The parts of a request's time from `began` to `now`."""
    return intervals(
        began,
        [
            ("receive", generation.arrival),
            ("prepare", generation.submitted),
            ("first_token", min((c.first_token for c in generation.choices if c.first_token), default=None)),
            ("generate", max((c.last_token for c in generation.choices if c.last_token), default=None)),
            ("send", now),
        ],
    )


class Usage:
    """The timelines of the last requests, and the file of usage if there is one. `clock` is that of generations."""

    def __init__(self, path: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `ConfigError` if the file cannot be opened."""
        self._clock = clock
        self._timelines: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._file = None if path is None else _UsageFile(path)

    def record(self, request_id: str, began: float, status: int, generation: Generation) -> None:
        """A request that began at `began` has been answered."""
        now, client = self._clock(), generation.prompts[0].request.client
        reasons = Counter(map(str, generation.finish_reasons))
        usage = {
            "status": status,
            "prompt_tokens": generation.prompt_tokens,
            "cached_tokens": generation.cached_tokens,
            "completion_tokens": generation.completion_tokens,
            "finish_reasons": dict(sorted(reasons.items())),
        }
        parts = intervals_of(began, now, generation)
        latency = sum(part["duration_us"] for part in parts)
        timeline = {"id": request_id, **usage, "latency_us": latency, "intervals": parts}
        if not generation.prompts[0].request.backfill:
            self._timelines[client, request_id] = msgspec.json.encode(timeline)  # as dicts they are five times as large
        if len(self._timelines) > MAX_TIMELINES:
            self._timelines.popitem(last=False)
        if self._file is not None:
            line = {"time": time.time(), "id": request_id, "client": client[:CLIENT_CHARS], **usage}  # noqa: TID251
            self._file.put({**line, "latency_us": latency})

    def timeline(self, client: str, request_id: str) -> bytes | None:
        """JSON of that of an ended request of this client."""
        return self._timelines.get((client, request_id))

    def close(self) -> None:
        """Write what waits."""
        if self._file is not None:
            self._file.close()


class _UsageFile:
    """Appends JSON lines in a thread of its own, so that a slow disk holds no request up."""

    def __init__(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"--usage-log {path} cannot be written: {error.strerror}") from None
        self._path, self._descriptor, self._lost = path, descriptor, 0
        self._cut = False
        """Whether the disk took only a part of the last line."""
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_WAITING_LINES)
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()

    def put(self, line: dict[str, Any]) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._lost += 1

    def close(self) -> None:
        """At most a few seconds, for a disk that hangs."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(5)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._lost:
                line, self._lost = {**line, "lines_lost_before": self._lost}, 0
            text = (b"\n" if self._cut else b"") + msgspec.json.encode(line) + b"\n"
            try:
                written = os.write(self._descriptor, text)
                self._cut = 0 < written < len(text)
                if written < len(text):
                    raise OSError(errno.ENOSPC, "the disk is full")
            except OSError as error:
                self._lost += 1 + line.get("lines_lost_before", 0)
                logger.error("--usage-log %s cannot be written: %s", self._path, error.strerror)
        os.close(self._descriptor)
