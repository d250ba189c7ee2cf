"""Carries plans out in a thread of its own, so that the loop can plan and start the next one meanwhile."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, runtime_checkable

from flover.engine.executor import Executor
from flover.engine.plan import StepPlan, StepResult
from flover.errors import InvariantError
from flover.observe.wrapped import WrappedExecutor


@runtime_checkable
class Overlaps(Protocol):
    """An executor that says whether a plan may be started while the one before is not finished."""

    overlaps: bool


def overlapping(executor: Executor) -> Executor:
    """One for asynchronous scheduling; `executor` itself if a plan may be started while it carries out another."""
    return executor if isinstance(executor, Overlaps) and executor.overlaps else BackgroundExecutor(executor)


class BackgroundExecutor(WrappedExecutor):
    """An executor for asynchronous scheduling around one that carries out a plan at a time.

    Plans are carried out one after another, in the order of their starts. After one that raised none is, until `reset`.
    """

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="executor")
        self._started: deque[Future[StepResult]] = deque()
        self._failed = False

    def start(self, plan: StepPlan) -> None:
        """Returns at once."""
        self._started.append(self._thread.submit(self._carry_out, plan))

    def finish(self) -> StepResult:
        """Waits for the oldest plan, and raises what it raised."""
        if not self._started:
            raise InvariantError("no plan was started")
        return self._started.popleft().result()

    def reset(self) -> None:
        """Waits for the plan that is being carried out; those behind it are given up."""
        self._give_up()
        self._failed = False
        super().reset()

    def close(self) -> None:
        """Likewise. Calling it twice is harmless."""
        self._give_up()
        self._thread.shutdown()
        super().close()

    def _give_up(self) -> None:
        for one in self._started:
            one.cancel()
        wait(self._started)
        self._started.clear()

    def _carry_out(self, plan: StepPlan) -> StepResult:
        if self._failed:
            raise InvariantError(f"step {plan.step} was started after a step that failed")
        try:
            self._executor.start(plan)
            return self._executor.finish()
        except BaseException:
            self._failed = True
            raise
