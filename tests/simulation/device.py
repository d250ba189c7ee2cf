"""The simulated device: the hash model, a clock that moves while it computes, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from flover.engine.executor import BlockingExecutor
from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.request import ModelFacts

from .hash_executor import HashExecutor, HashRow
from .history import History
from .workload import Scenario

RAISING = ("exception before", "exception after", "out of memory")
MALFORMED = ("wrong step", "duplicate row", "missing row", "foreign row", "missing row and failed row")
FAULTS = (*RAISING, *MALFORMED, "failed row", "failed row")


class DeviceError(RuntimeError):
    """An injected failure of the device."""


class Clock:
    """Simulated time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Witness:
    """Is told what the device sees; the laws are checked here. See `laws.Laws`."""

    def planned(self, plan: StepPlan) -> None: ...

    def computed(self, plan: StepPlan, rows: dict[int, HashRow]) -> None: ...

    def running(self, plan: StepPlan, rows: dict[int, HashRow]) -> None: ...

    def failed(self, plan: StepPlan, kind: str) -> None: ...

    def row_failed(self, row: HashRow) -> None: ...

    def was_reset(self) -> None: ...


class SimDevice(BlockingExecutor):
    """An `Executor` that passes plans to the hash model, and sometimes fails as drawn from the scenario."""

    def __init__(
        self, scenario: Scenario, clock: Clock, witness: Witness, on_running: Callable[[], None], history: History
    ) -> None:
        config = scenario.config
        self.facts: ModelFacts = scenario.facts
        self.model = HashExecutor(scenario.facts, max_num_seqs=config.max_num_seqs, reorder=config.reorder)
        self.poisoned: dict[int, int] = {}
        """Seed of a sequence: number of output tokens from which on every plan with it raises."""
        self._scenario = scenario
        self._rng = Random(f"device {scenario.seed}")
        self._clock = clock
        self._witness = witness
        self._on_running = on_running
        self._history = history

    def run(self, plan: StepPlan) -> StepResult:
        fault = self._rng.choice(FAULTS) if self._rng.random() < self._scenario.fault_p else None
        self._history.add("plan", plan)
        self._witness.planned(plan)
        if fault == "exception before":
            self._raise(plan, fault)
        result = self.model.run(plan)
        self._pass_time(plan)
        self._witness.running(plan, self.model.rows)
        self._on_running()
        if self._has_poisoned(plan):
            self._raise(plan, "poisoned request")
        if fault in RAISING:
            self._raise(plan, fault)
        self._witness.computed(plan, self.model.rows)
        return self._spoil(plan, result, fault) if fault is not None else result

    def reset(self) -> None:
        self._witness.was_reset()
        self.model.reset()

    def trim(self, free_pages: list[int]) -> None:
        self.model.trim(free_pages)

    def check(self) -> None: ...

    def close(self) -> None:
        self.model.close()

    def _raise(self, plan: StepPlan, kind: str) -> None:
        self._history.add("fault", kind)
        self._witness.failed(plan, kind)
        self.model.fail(plan.step)
        raise MemoryError(kind) if kind == "out of memory" else DeviceError(kind)

    def _pass_time(self, plan: StepPlan) -> None:
        constant, per_token, per_context = self._scenario.step_ms
        context = sum(row.computed for row in self.model.rows.values())
        milliseconds = constant + per_token * plan.num_tokens + per_context * context / 1000
        hiccup = 5.0 if self._rng.random() < 0.01 else 1.0
        self._clock.now += milliseconds * self._rng.uniform(0.9, 1.2) * hiccup / 1e3

    def _has_poisoned(self, plan: StepPlan) -> bool:
        if not self.poisoned:
            return False
        rows = [self.model.rows[number] for number in planned_rows(plan)]
        return any(len(row.known) - row.prompt_len > self.poisoned.get(row.seed, len(row.known)) for row in rows)

    def _spoil(self, plan: StepPlan, result: StepResult, fault: str) -> StepResult:
        """Damage a result. A fault that needs rows which the result does not have does not happen."""
        rows = list(result.rows)
        sampled = [row for row in rows if row.token_ids]
        if fault == "failed row":
            return self._fail_row(plan, rows)
        if fault == "wrong step":
            result = msgspec.structs.replace(result, step=result.step - 1)
        elif fault == "foreign row":
            rows.append(RowResult(row=max(self.model.rows, default=0) + 1, token_ids=[0]))
        elif not sampled:
            return result
        elif fault == "duplicate row":
            rows.append(self._rng.choice(rows))
        else:
            rows.remove(self._rng.choice(sampled))
            others = [work.row for work in plan.work if not work.num_samples]
            if fault == "missing row and failed row" and others:
                rows.append(RowResult(row=others[0], error="not a number"))
        self._history.add("fault", fault)
        self._witness.failed(plan, fault)
        return msgspec.structs.replace(result, rows=rows)

    def _fail_row(self, plan: StepPlan, rows: list[RowResult]) -> StepResult:
        """One row's numbers are not usable."""
        numbers = planned_rows(plan)
        if numbers:
            number = self._rng.choice(numbers)
            rows = [row for row in rows if row.row != number]
            rows.append(RowResult(row=number, error="not a number"))
            self._witness.row_failed(self.model.rows[number])
        return StepResult(step=plan.step, rows=rows)


def planned_rows(plan: StepPlan) -> list[int]:
    """Rows that a plan computes."""
    return [work.row for work in plan.work]
