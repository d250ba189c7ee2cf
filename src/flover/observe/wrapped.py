"""An executor around another one."""

from __future__ import annotations

from collections.abc import Callable

from flover.engine.executor import Executor
from flover.engine.plan import StepPlan, StepResult
from flover.request import Request
from flover.structured_outputs import Vocabulary


class WrappedExecutor:
    """An executor that hands every call on to another one. Derived classes override the calls that they look at."""

    def __init__(self, executor: Executor) -> None:
        self.facts = executor.facts
        self._executor = executor

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        return self._executor.prepare(request, vocabulary)

    def start(self, plan: StepPlan) -> None:
        self._executor.start(plan)

    def finish(self) -> StepResult:
        return self._executor.finish()

    def reset(self) -> None:
        self._executor.reset()

    def trim(self, free_pages: list[int]) -> None:
        self._executor.trim(free_pages)

    def check(self) -> None:
        self._executor.check()

    def close(self) -> None:
        self._executor.close()
