"""The thread behind asynchronous scheduling: plans in their order, and none after one that raised."""

from __future__ import annotations

import threading

import pytest
from support.facts import model_facts

from flover.engine.executor import BlockingExecutor
from flover.engine.plan import StepPlan, StepResult
from flover.errors import InvariantError
from flover.executor.background import BackgroundExecutor


class Gated(BlockingExecutor):
    """Carries out a plan when `gate` is open; step 1 raises."""

    def __init__(self) -> None:
        self.facts = model_facts()
        self.gate = threading.Event()
        self.log: list[object] = []

    def run(self, plan: StepPlan) -> StepResult:
        assert self.gate.wait(60)
        self.log.append(plan.step)
        if plan.step == 1:
            raise RuntimeError("boom")
        return StepResult(step=plan.step, rows=[])

    def reset(self) -> None:
        super().reset()
        self.log.append("reset")

    def trim(self, free_pages: list[int]) -> None: ...

    def check(self) -> None: ...

    def close(self) -> None:
        self.log.append("close")


def plan(step: int) -> StepPlan:
    return StepPlan(step=step, evictions=[], moves=[], admissions=[], grants=[], work=[], window=(0, 0))


def test_plans_are_carried_out_in_order_and_none_after_one_that_raised() -> None:
    own = Gated()
    executor = BackgroundExecutor(own)
    with pytest.raises(InvariantError, match="no plan"):
        executor.finish()
    for step in range(4):
        executor.start(plan(step))
    assert own.log == [], "start returns before the device is done"
    own.gate.set()
    assert executor.finish().step == 0
    with pytest.raises(RuntimeError, match="boom"):
        executor.finish()
    with pytest.raises(InvariantError, match="after a step that failed"):
        executor.finish()
    executor.reset()
    with pytest.raises(InvariantError, match="no plan"):
        executor.finish()
    executor.start(plan(4))
    assert executor.finish().step == 4
    executor.start(plan(5))
    executor.close()
    assert own.log[:3] == [0, 1, "reset"] and own.log[-1] == "close"
