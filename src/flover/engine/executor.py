"""What the loop asks of an executor: start a plan, and finish it. Known executors: one device (`executor/device.py`),
the ranks of a tensor-parallel group (`parallel/ranks.py`), and those without a model: simulations, replays, tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from flover.engine.plan import StepPlan, StepResult
from flover.errors import InvariantError
from flover.request import ModelFacts, Request
from flover.structured_outputs import Vocabulary


class Executor(Protocol):
    """Carries out plans in order. It decides nothing.

    With asynchronous scheduling a plan is started while the one before is not finished, and takes the newest tokens of
    its rows from there. If `start` or `finish` raises, the device's rows are void until `reset`, and no plan that was
    started is finished any more.
    """

    facts: ModelFacts

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        """Called in any thread: what has to be done, in any thread but the loop's, before the request is queued; None
        if nothing. Raises `RequestError`, and so does what is returned, if the request cannot be served."""
        ...

    def start(self, plan: StepPlan) -> None:
        """Begin a plan. It may return before the device is done."""
        ...

    def finish(self) -> StepResult:
        """The results of the oldest plan that was started and not finished, when the device is done with it."""
        ...

    def reset(self) -> None:
        """Forget all rows and what was started. Afterwards nothing writes pages; what is in them is void."""
        ...

    def trim(self, free_pages: list[int]) -> None:
        """Called when idle: the memory behind these pages may go back to the operating system."""
        ...

    def check(self) -> None:
        """Called when idle: raises `EngineDeadError` if it can compute nothing any more."""
        ...

    def close(self) -> None:
        """Free everything. Calling it twice is harmless."""
        ...


class BlockingExecutor(ABC):
    """The two halves of an executor that carries out a plan in one call."""

    _results: tuple[StepResult, ...] = ()
    """Of plans that were started and not finished."""

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        """Nothing: it computes no text."""
        return None

    @abstractmethod
    def run(self, plan: StepPlan) -> StepResult:
        """Carry out one plan."""

    def start(self, plan: StepPlan) -> None:
        """All of the work is done here."""
        self._results += (self.run(plan),)

    def finish(self) -> StepResult:
        """What `run` has returned."""
        if not self._results:
            raise InvariantError("no plan was started")
        result, self._results = self._results[0], self._results[1:]
        return result

    def reset(self) -> None:
        """Forget what was started. Derived classes forget their rows too."""
        self._results = ()
