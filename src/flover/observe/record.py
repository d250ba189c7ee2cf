"""Everything the engine was told, line by line, so that `replay.py` can tell it again.

A record is JSON lines: a `Head`, then a `Told` for every step that took words or had a plan. Decisions are a function
of the words, the clock's readings and the results, so these are there to the last bit. It holds the prompts and the
tokens of every request. A file that ends in the middle of a line is a record of the steps before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from flover.config import EngineConfig
from flover.engine.observer import Observer, Run
from flover.engine.plan import Grant, Move, StepPlan
from flover.engine.queue import Cancel, Submit
from flover.engine.roster import Roster, SchedulerConfig
from flover.errors import ConfigError
from flover.observe.background_writer import Backlog
from flover.request import Delta, ModelFacts, Request

VERSION = 1
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


class Told(msgspec.Struct, frozen=True, kw_only=True, tag="told", omit_defaults=True):
    """One step: what the engine was told, and what it made of it."""

    forgot: bool = False
    """Whether every prefix was forgotten just before."""
    words: list[Submit | Cancel] = []
    clock: list[float] = []
    """Every reading of the clock, in order."""
    plan: Outline | None = None
    digest: str = ""
    tokens: list[tuple[int, int]] = []  # row, token
    errors: list[tuple[int, str]] = []  # row, what was wrong with its numbers
    fault: str | None = None  # what the executor raised


def digest_of(plan: StepPlan) -> str:
    """A short name for everything that a plan says."""
    return blake2b(msgspec.msgpack.encode(plan), digest_size=8).hexdigest()


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
        chunks=[(one.row, one.start, len(one.token_ids), one.samples) for one in plan.chunks],
        generating=plan.generating,
    )


class _Step(msgspec.Struct, frozen=True):
    """What a line is made of."""

    forgot: bool
    words: Sequence[Request | Cancel]
    clock: Sequence[float]
    plan: StepPlan | None
    run: Run | None


class Recorder(Observer):
    """Notes every step, and makes a `Told` of each when it is read: one thread may note, another read. The engine must
    use the clock that `clock` makes."""

    def __init__(self) -> None:
        self._backlog: Backlog[Head | _Step] = Backlog()
        self._encode = msgspec.json.Encoder().encode
        self._readings: list[float] = []
        self._stepping = False
        self._words: Sequence[Request | Cancel] = ()
        self._plan: StepPlan | None = None
        self._run: Run | None = None
        self._forgot = False

    def clock(self, clock: Callable[[], float]) -> Callable[[], float]:
        """The same clock, with every reading noted that a step makes once it has its words."""

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

    def took(self, words: Sequence[Request | Cancel]) -> None:
        """A new line begins."""
        self._stepping = True
        self._readings = []
        self._words, self._plan, self._run = words, None, None

    def planned(self, roster: Roster, plan: StepPlan | None) -> None:
        """Note the plan."""
        self._plan = plan

    def ran(self, run: Run) -> None:
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
        if self._plan is None and not self._words:
            return
        self._backlog.put(_Step(self._forgot, self._words, self._readings, self._plan, self._run))
        self._forgot = False

    def _line(self, one: Head | _Step) -> bytes:
        return self._encode(one if isinstance(one, Head) else _told(one)) + b"\n"


def _told(step: _Step) -> Told:
    plan, run = step.plan, step.run
    rows = [] if run is None else list(run.rows.values())
    tokens = [(row.row, row.token_id) for row in rows if row.token_id is not None]
    return Told(
        forgot=step.forgot,
        words=[Submit(word) if isinstance(word, Request) else word for word in step.words],
        clock=list(step.clock),
        plan=None if plan is None else outline_of(plan),
        digest="" if plan is None else digest_of(plan),
        tokens=tokens,
        errors=[(row.row, row.error) for row in rows if row.error is not None],
        fault=None if run is None else run.fault,
    )


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read."""

    head: Head
    steps: Sequence[Told]
    cut: bool
    """Whether the file ends in the middle of a line."""


def read_record(path: Path) -> Record:
    """Read a record. Raises `ConfigError` if it is none, or one of another version."""
    lines = _lines(path)
    head = _parse(path, 1, next(lines, b""))
    if not isinstance(head, Head):
        raise ConfigError(f"{path} is not a record of a schedule: it does not begin with a head")
    if head.version != VERSION:
        raise ConfigError(f"{path} is a record of version {head.version}; this Flover reads version {VERSION}")
    steps: list[Told] = []
    cut = False
    for number, line in enumerate(lines, 2):
        cut = not line.endswith(b"\n")
        if cut:
            break
        told = _parse(path, number, line)
        if not isinstance(told, Told):
            raise ConfigError(f"{path}, line {number}: a second head")
        steps.append(told)
    return Record(head, steps, cut)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


_decoder: msgspec.json.Decoder[Head | Told] = msgspec.json.Decoder(Head | Told)


def _parse(path: Path, number: int, line: bytes) -> Head | Told:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}, is not of a record of a schedule: {error}") from error
