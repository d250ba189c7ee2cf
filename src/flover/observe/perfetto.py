"""A schedule as a picture: iterations in the Trace Event Format that Perfetto and chrome://tracing open.

One lane per row with a slice for each phase of each sequence that sat there, one lane for the iterations, and counters
of rows, queue and pages. A slice is a pair of events (begin, end), so that a file that was never finished still shows
what was under way. Times are microseconds since the engine started. Pure: iterations in, events out. No prompt and no
token is in them.

The format: "Trace Event Format", Google, 2016, which Perfetto reads too.
"""

from __future__ import annotations

from typing import Any

from flover.observe.timeline import Iteration
from flover.request import ModelFacts

PRE_PROCESSING, GENERATING = "pre-processing", "generating"
_PROCESS = 1
_ITERATIONS = 1
"""The lane of the iterations."""
_FIRST_ROW = 2
"""The lane of row 0; the others follow."""

_COUNTERS = {"rows": (GENERATING, PRE_PROCESSING), "queue": ("waiting",), "pages": ("used", "cached")}

Event = dict[str, Any]


class Lanes:
    """Turns iterations into events, in their order."""

    def __init__(self, facts: ModelFacts, max_num_seqs: int) -> None:
        self._title = f"flover {facts.model}"
        self._about = f"{facts.architecture}, {facts.dtype}, {max_num_seqs} rows, pages of {facts.page_size} tokens"
        self._named: set[int] = set()
        self._rows: dict[int, int] = {}
        """Row by sequence number, of the open slices."""
        self._phases: dict[int, str] = {}
        self._starting: set[int] = set()
        """Those of them that pre-process."""
        self._requests: dict[int, str] = {}
        self._counts: tuple[tuple[int, ...], ...] = ((),) * len(_COUNTERS)
        self._now = 0.0

    def opening(self) -> list[Event]:
        """What comes before the first iteration: names."""
        return [
            {"name": "process_name", "ph": "M", "pid": _PROCESS, "args": {"name": self._title}},
            {"name": "process_labels", "ph": "M", "pid": _PROCESS, "args": {"labels": self._about}},
            *_lane(_ITERATIONS, "iterations"),
        ]

    def events(self, iteration: Iteration) -> list[Event]:
        """The events of one iteration."""
        # Rounding must not let an iteration begin before the end of the one before.
        start, length = max(round(iteration.started * 1e6, 3), self._now), round(iteration.milliseconds * 1e3, 3)
        self._now = start
        computed = set(iteration.rows) if iteration.left else set()
        events: list[Event] = []
        for number, reason in iteration.left:
            if number not in computed:
                self._close(events, number, reason)
        for move in iteration.moves:
            self._move(events, move.src, move.dst)
        for row, number, request_id in iteration.entered:
            self._requests[number] = request_id
            self._open(events, row, number, PRE_PROCESSING)
        for number in self._begun(iteration):
            row = self._rows[number]
            self._close(events, number, "")
            self._open(events, row, number, GENERATING)
        events.append(_slice(iteration, start, length))
        self._count(events, iteration)
        self._now = round(start + length, 3)
        for number, reason in iteration.left:
            if number in computed:
                self._close(events, number, reason)
        return events

    def _begun(self, iteration: Iteration) -> list[int]:
        """Sequences that generate for the first time. Looks at those that have not: there are few, most of the time."""
        return sorted(number for number in self._starting if self._rows[number] in iteration.generating)

    def closing(self) -> list[Event]:
        """The ends of what is still open."""
        events: list[Event] = []
        for number in list(self._rows):
            self._close(events, number, "")
        return events

    def _open(self, events: list[Event], row: int, number: int, phase: str) -> None:
        if row not in self._named:
            self._named.add(row)
            events += _lane(row + _FIRST_ROW, f"row {row}")
        self._rows[number], self._phases[number] = row, phase
        if phase == PRE_PROCESSING:
            self._starting.add(number)
        args = {"sequence": number, "request": self._requests.get(number, "")}
        events.append({**self._event("B", row), "name": f"{phase} {number}", "cat": phase, "args": args})

    def _close(self, events: list[Event], number: int, reason: str) -> None:
        row = self._rows.pop(number, None)
        if row is None:
            return
        del self._phases[number]
        self._starting.discard(number)
        if reason:
            del self._requests[number]
        events.append({**self._event("E", row), **({"args": {"left": reason}} if reason else {})})

    def _move(self, events: list[Event], src: int, dst: int) -> None:
        for number in [number for number, row in self._rows.items() if row == src]:
            phase = self._phases[number]
            self._close(events, number, "")
            self._open(events, dst, number, phase)

    def _event(self, kind: str, row: int) -> Event:
        return {"ph": kind, "pid": _PROCESS, "tid": row + _FIRST_ROW, "ts": self._now}

    def _count(self, events: list[Event], iteration: Iteration) -> None:
        counts = (
            (len(iteration.generating), len(iteration.chunks)),
            (iteration.waiting,),
            (iteration.pages_used, iteration.pages_cached),
        )
        if counts == self._counts:
            return
        for (name, parts), values, before in zip(_COUNTERS.items(), counts, self._counts, strict=True):
            if values != before:
                args = dict(zip(parts, values, strict=True))
                events.append({"name": name, "ph": "C", "pid": _PROCESS, "ts": self._now, "args": args})
        self._counts = counts


def _slice(iteration: Iteration, start: float, length: float) -> Event:
    args: dict[str, Any] = {"step": iteration.step, "generating": len(iteration.generating)}
    if iteration.chunks:
        args["prompt tokens"] = sum(tokens for _, tokens in iteration.chunks)
    if iteration.pages_freed:
        args["pages freed"] = iteration.pages_freed
    if iteration.fault is not None:
        args["fault"] = iteration.fault
    name = "iteration" if iteration.fault is None else "failed iteration"
    return {"name": name, "ph": "X", "pid": _PROCESS, "tid": _ITERATIONS, "ts": start, "dur": length, "args": args}


def _lane(number: int, name: str) -> list[Event]:
    place = {"ph": "M", "pid": _PROCESS, "tid": number}
    return [
        {"name": "thread_name", **place, "args": {"name": name}},
        {"name": "thread_sort_index", **place, "args": {"sort_index": number}},
    ]
