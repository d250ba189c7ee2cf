"""Rank 0 plans, every rank runs: the executor that the loop sees, and what the other ranks do instead of a loop.

Rank 0 sends each plan before it carries it out itself; the others carry out what they get, in order. Neither side can
drift from the other without notice: frames are numbered, and each tells what the plan before it was computed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from flover.engine.executor import Executor
from flover.engine.plan import StepPlan, StepResult
from flover.errors import EngineDeadError, InvariantError
from flover.parallel.frames import End, Frame, Reset, RunPlan, Trim, decode, encode
from flover.request import ModelFacts, Request
from flover.structured_outputs import Vocabulary


class Rank(Executor, Protocol):
    """One rank's own device."""

    overlaps: bool
    """Whether a plan may be started while the one before is not finished. Then ranks give each other the tokens."""

    def sample_started(self) -> None:
        """Start what is left of the newest plan, where it overlaps the next one."""
        ...

    def take(self, tokens: Iterable[tuple[int, int]]) -> None:
        """Rank 0 has chosen tokens: (row of the plan before, its newest token)."""
        ...

    @property
    def digest(self) -> int:
        """A checksum of what the last plan was computed on: rows, positions, pages, tokens."""
        ...


class Channel(Protocol):
    """How frames travel (`parallel/group.py`), and what the model's collectives on the same way have taken so far."""

    calls: int
    num_bytes: int
    seconds: float

    def send(self, frame: bytes) -> None: ...
    def receive(self) -> bytes: ...

    def check(self) -> None:
        """Raises `RankLostError` if a collective of the model was given up: what has been computed since is void."""
        ...

    def close(self) -> None: ...


class Leader:
    """Rank 0 of a group, as an executor. Whatever goes wrong in one plan ends the group: it is not known then how far
    the others got. `check` raises `EngineDeadError` when one of them has died; `end` ends their processes, and is told
    whether they leave by themselves."""

    facts: ModelFacts

    def __init__(self, own: Rank, channel: Channel, check: Callable[[], None], end: Callable[[bool], None]) -> None:
        self.facts = own.facts
        self.overlaps = own.overlaps
        self.check = check
        self._own = own
        self.group = channel
        self._end = end
        self._number = 0
        self._tokens: list[tuple[int, int]] = []
        self._failed = False
        self._closed = False
        self.frame_bytes = 0
        """Bytes of all frames so far, and the seconds that it took to make and send them."""
        self.frame_seconds = 0.0

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        """On this rank, which alone chooses tokens."""
        return self._own.prepare(request, vocabulary)

    def start(self, plan: StepPlan) -> None:
        """One plan, on every rank. Raises `EngineDeadError`."""
        with self._fatal():
            self.check()
            self._own.sample_started()  # the others may wait for that before they read the next plan
            self._send(RunPlan(self._number, plan, self._tokens, self._own.digest))
            self._own.start(plan)

    def finish(self) -> StepResult:
        """The results, which rank 0 alone has. Raises `EngineDeadError`."""
        with self._fatal():
            result = self._own.finish()
            self.group.check()
        if not self.overlaps:
            self._tokens = [(row.row, row.token_ids[-1]) for row in result.rows if row.token_ids]
        return result

    def reset(self) -> None:
        """Forget all rows, everywhere."""
        self._send(Reset(self._number))
        self._tokens = []
        self._own.reset()

    def trim(self, free_pages: list[int]) -> None:
        """The memory behind these pages may go, everywhere."""
        self._send(Trim(self._number, free_pages))
        self._own.trim(free_pages)

    def close(self) -> None:
        """End the other ranks, then free what this one has. Calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if not self._failed:
            try:
                self.check()
                self._send(End(self._number))
            except EngineDeadError:
                self._failed = True
        self._end(not self._failed)
        self._own.close()
        self.group.close()

    @contextmanager
    def _fatal(self) -> Iterator[None]:
        """An error in here ends the group."""
        try:
            yield
        except Exception as error:
            self._failed = True
            if isinstance(error, EngineDeadError):
                raise
            raise EngineDeadError(f"an iteration failed on rank 0: {type(error).__name__}: {error}") from error

    def _send(self, frame: Frame) -> None:
        began = time.perf_counter()
        data = encode(frame)
        self.frame_bytes += len(data)
        self._number += 1
        self.group.send(data)
        self.frame_seconds += time.perf_counter() - began


def follow(own: Rank, channel: Channel) -> None:
    """What the other ranks do until rank 0 says that it is over. Raises `InvariantError` where this rank and rank 0 are
    no longer at the same place."""
    number = 0
    while True:
        frame = decode(channel.receive())
        if frame.number != number:
            raise InvariantError(f"frame {frame.number} of rank 0 came where frame {number} was due")
        number += 1
        match frame:
            case RunPlan(plan=plan, tokens=tokens, digest=digest):
                if digest != own.digest:
                    raise InvariantError(f"before step {plan.step} this rank had computed something else than rank 0")
                own.take(tokens)
                own.start(plan)
                own.finish()
                channel.check()
            case Reset():
                own.reset()
            case Trim(pages=pages):
                own.trim(pages)
            case End():
                return
