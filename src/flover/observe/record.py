"""Everything that the engine was given, line by line, so that `replay.py` can give it again.

A record is JSON lines: a `Head`, then a `StepRecord` for every step that took inputs or had a plan. Decisions are a
function of the inputs, the clock's readings and the results, so these are there to the last bit. It holds the prompts
and the tokens of every request. A file that ends in the middle of a line is a record of the steps before.
`record_reader.py` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from flover.config import EngineConfig
from flover.engine.observer import ExecutedPlan, Observer
from flover.engine.plan import Grant, Move, StepPlan
from flover.engine.queue import Cancel, Submit
from flover.engine.roster import Roster, SchedulerConfig
from flover.observe.background_writer import Backlog
from flover.prefix.tier import PageCopy
from flover.request import Delta, ModelFacts, Request

VERSION = 2
"""1 named a generating row by its number alone, and had one token a row."""
_STEPS_AT_ONCE = 16


class Head(msgspec.Struct, frozen=True, kw_only=True, tag="head"):
    """First line: what engine this was."""

    version: int
    engine: EngineConfig
    scheduler: SchedulerConfig
    facts: ModelFacts


class Outline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan without its prompts, for people to read; the digest stands for the whole of it."""

    step: int
    window: tuple[int, int]
    dead: list[int] = []
    evictions: list[int] = []
    moves: list[Move] = []
    admissions: list[tuple[int, int, int, list[int]]] = []  # row, sequence, tokens computed already, pages
    grants: list[Grant] = []
    chunks: list[tuple[int, int, int, bool]] = []  # row, first position, tokens, whether it samples
    generating: list[int] = []
    proposals: list[tuple[int, list[int]]] = []  # row, tokens proposed after its newest
    copies: list[PageCopy] = []


class StepRecord(msgspec.Struct, frozen=True, kw_only=True, tag="step", omit_defaults=True):
    """One step: what the engine was given, and what it made of it."""

    forgot: bool = False
    """Whether every prefix was forgotten just before."""
    inputs: list[Submit | Cancel] = []
    clock: list[float] = []
    """Every reading of the clock, in order."""
    plan: Outline | None = None
    digest: str = ""
    # Of the plan that was finished in this step: with asynchronous scheduling it is the one before.
    tokens: list[tuple[int, list[int]]] = []  # row, its tokens
    errors: list[tuple[int, str]] = []  # row, what was wrong with its numbers
    proposed: list[tuple[int, list[int]]] = []  # row, what a draft model proposed for it
    fault: str | None = None  # what the executor raised
    offload_error: str | None = None  # why the host tier was given up


_ADDED = ("structured_outputs", "pooling", "thinking", "lora")
"""Parameters that records did not always have: left out where they are not used."""


def digest_of(plan: StepPlan) -> str:
    """A checksum of everything that a plan says."""
    fields = {**msgspec.structs.asdict(plan), "admissions": admissions_of(plan)}
    for name in ("drafts", "copies"):
        if not fields[name]:  # as in records from before there were any
            del fields[name]
    return blake2b(msgspec.msgpack.encode(fields), digest_size=8).hexdigest()


def admissions_of(plan: StepPlan) -> list[dict[str, Any]]:
    """The admissions of a plan as records have them."""
    admissions: list[dict[str, Any]] = msgspec.to_builtins(plan.admissions)
    for admission in admissions:
        for name in _ADDED:
            if admission["params"][name] is None:
                del admission["params"][name]
    return admissions


def outline_of(plan: StepPlan) -> Outline:
    """What of a plan can be shown."""
    return Outline(
        step=plan.step,
        window=plan.window,
        dead=plan.dead,
        evictions=plan.evictions,
        moves=plan.moves,
        admissions=[(one.row, one.sequence, one.computed, one.pages) for one in plan.admissions],
        grants=plan.grants,
        chunks=[(one.row, one.start, one.num_tokens, bool(one.num_samples)) for one in plan.chunks],
        generating=plan.generating,
        proposals=[(one.row, one.token_ids) for one in plan.work if one.generates and one.token_ids],
        copies=plan.copies,
    )


class _RecordedStep(msgspec.Struct, frozen=True):
    """What a line is made of."""

    forgot: bool
    inputs: Sequence[Request | Cancel]
    clock: Sequence[float]
    plan: StepPlan | None
    run: ExecutedPlan | None


class ScheduleRecorder(Observer):
    """Notes every step, and makes a `StepRecord` of each when it is read: one thread may note, another read. The engine
    must use the clock that `clock` makes."""

    def __init__(self) -> None:
        self._backlog: Backlog[Head | _RecordedStep] = Backlog()
        self._encode = msgspec.json.Encoder().encode
        self._readings: list[float] = []
        self._stepping = False
        self._inputs: Sequence[Request | Cancel] = ()
        self._plan: StepPlan | None = None
        self._run: ExecutedPlan | None = None
        self._forgot = False

    def clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        """The same clock, with every reading noted that a step makes once it has its inputs."""

        def read() -> float:
            now = clock()
            if self._stepping:
                self._readings.append(now)
            return now

        return read

    def begin(self, engine: EngineConfig, scheduler: SchedulerConfig, facts: ModelFacts) -> None:
        """The first line."""
        self._backlog.put(Head(version=VERSION, engine=engine, scheduler=scheduler, facts=facts))

    def read(self) -> bytes:
        """The lines of a few steps."""
        return b"".join(self._line(one) for one in self._backlog.take(_STEPS_AT_ONCE))

    def end(self) -> bytes:
        """Lines need no end."""
        return b""

    def took(self, inputs: Sequence[Request | Cancel]) -> None:
        """A new line begins."""
        self._stepping = True
        self._readings = []
        self._inputs, self._plan, self._run = inputs, None, None

    def planned(self, roster: Roster, plan: StepPlan | None) -> None:
        """Note the plan."""
        self._plan = plan

    def ran(self, run: ExecutedPlan) -> None:
        """Note the outcome. If this fault is the one that ends the engine, there will be no end of the step."""
        self._run = run
        if run.fault is not None:
            self._note()

    def stepped(self, roster: Roster, deltas: Sequence[Delta]) -> None:
        """Note the step."""
        self._stepping = False
        if self._run is None or self._run.fault is None:
            self._note()

    def forgot(self) -> None:
        """Note it for the next line."""
        self._forgot = True

    def _note(self) -> None:
        if self._plan is None and self._run is None and not self._inputs:
            return
        self._backlog.put(_RecordedStep(self._forgot, self._inputs, self._readings, self._plan, self._run))
        self._forgot = False

    def _line(self, one: Head | _RecordedStep) -> bytes:
        return self._encode(one if isinstance(one, Head) else _record(one)) + b"\n"


def _record(step: _RecordedStep) -> StepRecord:
    plan, run = step.plan, step.run
    rows = [] if run is None else list(run.rows.values())
    return StepRecord(
        forgot=step.forgot,
        inputs=[Submit(one) if isinstance(one, Request) else one for one in step.inputs],
        clock=list(step.clock),
        plan=None if plan is None else outline_of(plan),
        digest="" if plan is None else digest_of(plan),
        tokens=[(row.row, row.token_ids) for row in rows if row.token_ids],
        errors=[(row.row, row.error) for row in rows if row.error is not None],
        proposed=[(row.row, row.proposals) for row in rows if row.proposals],
        fault=None if run is None else run.fault,
        offload_error=None if run is None else run.offload_error,
    )
