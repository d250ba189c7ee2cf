"""Reads the records that `record.py` writes, those of version 1 included.

Version 1 named a generating row by its number alone and had one token a row. Its steps are converted; its digests are
of plans as they were encoded then, so a plan is encoded in that way to be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from flover.engine.plan import StepPlan
from flover.engine.queue import Cancel, Submit
from flover.errors import ConfigError
from flover.observe.record import VERSION, Head, Outline, StepRecord, admissions_of, digest_of

READABLE = (1, VERSION)


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read."""

    head: Head
    steps: Sequence[StepRecord]
    cut: bool
    """Whether the file ends in the middle of a line."""

    @property
    def digest(self) -> Callable[[StepPlan], str]:
        """The checksum of a plan in this record."""
        return _digest_1 if self.head.version == 1 else digest_of


class _StepRecord1(msgspec.Struct, frozen=True, kw_only=True, tag="told"):
    """A step of version 1."""

    forgot: bool = False
    words: list[Submit | Cancel] = []
    clock: list[float] = []
    plan: Outline | None = None
    digest: str = ""
    tokens: list[tuple[int, int]] = []
    errors: list[tuple[int, str]] = []
    fault: str | None = None

    def converted(self) -> StepRecord:
        """The same step as it is written now, but for its digest."""
        return StepRecord(
            forgot=self.forgot,
            inputs=self.words,
            clock=self.clock,
            plan=self.plan,
            digest=self.digest,
            tokens=[(row, [token]) for row, token in self.tokens],
            errors=self.errors,
            fault=self.fault,
        )


def _digest_1(plan: StepPlan) -> str:
    fields = {
        "step": plan.step,
        "evictions": plan.evictions,
        "moves": plan.moves,
        "admissions": admissions_of(plan),
        "grants": plan.grants,
        "chunks": [
            {"row": one.row, "start": one.start, "token_ids": one.token_ids, "samples": bool(one.num_samples)}
            for one in plan.chunks
        ],
        "generating": plan.generating,
        "window": plan.window,
        "dead": plan.dead,
    }
    return blake2b(msgspec.msgpack.encode(fields), digest_size=8).hexdigest()


def read_record(path: Path) -> Record:
    """Read a record. Raises `ConfigError` if it is none, or one of a version that is not read."""
    lines = _lines(path)
    head = _parse(path, 1, next(lines, b""))
    if not isinstance(head, Head):
        raise ConfigError(f"{path} is not a record of a schedule: it does not begin with a head")
    if head.version not in READABLE:
        raise ConfigError(
            f"{path} is a record of version {head.version}; this Flover reads versions {READABLE[0]} to {READABLE[-1]}"
        )
    steps: list[StepRecord] = []
    cut = False
    for number, line in enumerate(lines, 2):
        cut = not line.endswith(b"\n")
        if cut:
            break
        step = _parse(path, number, line)
        if isinstance(step, Head):
            raise ConfigError(f"{path}, line {number}: a second head")
        steps.append(step.converted() if isinstance(step, _StepRecord1) else step)
    return Record(head, steps, cut)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


_Line = Head | StepRecord | _StepRecord1
_decoder: msgspec.json.Decoder[_Line] = msgspec.json.Decoder(_Line)


def _parse(path: Path, number: int, line: bytes) -> _Line:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}, is not of a record of a schedule: {error}") from error
