"""What the loop asks of whatever computes: run a plan. Known executors: one torch device, a tensor-parallel
group of them, and the integer-exact hash model of the tests."""

from __future__ import annotations

from typing import Protocol

from flover.engine.plan import StepPlan, StepResult
from flover.request import ModelFacts


class Executor(Protocol):
    """Carries out plans in order. It decides nothing."""

    facts: ModelFacts

    def run(self, plan: StepPlan) -> StepResult:
        """Carry out one plan. If this raises, the device's rows are void until `reset`."""
        ...

    def reset(self) -> None:
        """Forget all rows; what is in the pages is void."""
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
