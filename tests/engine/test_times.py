"""Where the seconds of the loop go: from step to step while somebody is here, and nothing while nobody is."""

import pytest
from support.toy import ToyExecutor, make_engine, request, run

from flover.engine.plan import StepPlan, StepResult
from flover.engine.stats import Times
from flover.request import ModelFacts


class Counted(ToyExecutor):
    """An iteration takes 1 ms, 0.75 of them in kernels."""

    def run(self, plan: StepPlan) -> StepResult:
        result = super().run(plan)
        return StepResult(step=result.step, rows=result.rows, kernel_seconds=0.00075)


def counted(facts: ModelFacts) -> ToyExecutor:
    return Counted(facts)


def test_idle_time_is_not_busy_and_kernels_are_summed() -> None:
    engine, device = make_engine(executor=counted)
    for _ in range(2):
        engine.submit(request("a", max_tokens=4))
        run(engine)
        device.now += 100
        engine.step()
    stats = engine.stats()
    assert stats.iterations == 8
    assert stats.busy_seconds == pytest.approx(0.008)
    assert stats.kernel_seconds == pytest.approx(0.006)


def test_the_time_between_two_plans_counts_while_somebody_is_here() -> None:
    times = Times()
    times.begin(1.0)
    times.ran(2.0, 0.25)
    times.begin(3.0)
    times.ran(4.0, 0.25)
    times.rest()
    times.begin(10.0)
    times.rest()
    assert (times.busy, times.kernels) == (3.0, 0.5)
