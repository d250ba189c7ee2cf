"""The simulated device: the hash model, a clock that moves while it computes, and everything that can go wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NoReturn

import msgspec

from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.request import ModelFacts, Request
from flover.structured_outputs import Vocabulary

from .hash_executor import HashExecutor, HashRow
from .history import History
from .workload import Scenario

RAISING = ("exception before", "exception after", "out of memory")
MALFORMED = ("wrong step", "duplicate row", "missing row", "foreign row", "missing row and failed row")
FAULTS = (*RAISING, *MALFORMED, "failed row", "failed row")


class DeviceError(RuntimeError):
    """An injected failure of the device."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a started plan comes to."""

    plan: StepPlan
    result: StepResult | None
    fault: str | None


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

    def finished(self, plan: StepPlan) -> None: ...

    def running(self, plan: StepPlan, rows: dict[int, HashRow]) -> None: ...

    def failed(self, plan: StepPlan, kind: str) -> None: ...

    def row_failed(self, row: HashRow) -> None: ...

    def was_reset(self) -> None: ...


class SimDevice:
    """An `Executor` that passes plans to the hash model, and sometimes fails as drawn from the scenario.

    With asynchronous scheduling it writes pages until a plan is finished, and tells of a failure when the plan is
    started or when it is finished; what is started after the failure is never computed.
    """

    def __init__(
        self, scenario: Scenario, clock: Clock, witness: Witness, on_running: Callable[[], None], history: History
    ) -> None:
        config = scenario.config
        self.facts: ModelFacts = scenario.facts
        self.model = HashExecutor(
            scenario.facts, max_num_seqs=config.max_num_seqs, reorder=config.reorder, num_slots=config.num_slots
        )
        self.poisoned: dict[int, int] = {}
        """Seed of a sequence: number of output tokens from which on every plan with it raises."""
        self._scenario = scenario
        self._rng = Random(f"device {scenario.seed}")
        self._clock = clock
        self._witness = witness
        self._on_running = on_running
        self._history = history
        self._started: deque[Outcome] = deque()
        self._down = False

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> None: ...

    def start(self, plan: StepPlan) -> None:
        outcome = self._lose(plan) if self._down else self._carry_out(plan)
        if outcome.result is None:
            self._down = True
            if not self._scenario.config.async_scheduling or self._rng.random() < 0.5:
                self._raise(outcome)
        self._started.append(outcome)

    def finish(self) -> StepResult:
        outcome = self._started.popleft()
        if outcome.result is None:
            self._raise(outcome)
        elif outcome.fault is None:
            self._witness.finished(outcome.plan)
        else:
            self._witness.failed(outcome.plan, outcome.fault)
        self.model.finish()
        return outcome.result

    def _carry_out(self, plan: StepPlan) -> Outcome:
        fault = self._rng.choice(FAULTS) if self._rng.random() < self._scenario.fault_p else None
        self._history.add("plan", plan)
        self._witness.planned(plan)
        if fault == "exception before":
            return self._lost(plan, fault)
        self.model.start(plan)
        result = self.model.newest
        self._pass_time(plan)
        self._witness.running(plan, self.model.rows)
        self._on_running()
        if self._has_poisoned(plan):
            return self._lost(plan, "poisoned request")
        if fault in RAISING:
            return self._lost(plan, fault)
        self._witness.computed(plan, self.model.rows)
        if fault is not None:
            result, fault = self._spoil(plan, result, fault)
        return Outcome(plan, result, fault)

    def _lose(self, plan: StepPlan) -> Outcome:
        self._history.add("plan", plan)
        self._witness.planned(plan)
        return self._lost(plan, "started after a failure")

    def _lost(self, plan: StepPlan, fault: str) -> Outcome:
        self._history.add("fault", fault)
        self.model.fail(plan.step)
        return Outcome(plan, None, fault)

    def reset(self) -> None:
        self._started.clear()
        self._down = False
        self._witness.was_reset()
        self.model.reset()

    def trim(self, free_pages: list[int]) -> None:
        self.model.trim(free_pages)

    def check(self) -> None: ...

    def close(self) -> None:
        self.model.close()

    def _raise(self, outcome: Outcome) -> NoReturn:
        kind = str(outcome.fault)
        self._witness.failed(outcome.plan, kind)
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

    def _spoil(self, plan: StepPlan, result: StepResult, fault: str) -> tuple[StepResult, str | None]:
        """Damage a result; the fault, if the iteration fails by it. One that needs rows which the result does not have
        does not happen."""
        rows = list(result.rows)
        sampled = [row for row in rows if row.token_ids]
        if fault == "failed row":
            return self._fail_row(plan, rows), None
        if fault == "wrong step":
            result = msgspec.structs.replace(result, step=result.step - 1)
        elif fault == "foreign row":
            rows.append(RowResult(row=max(self.model.rows, default=0) + 1, token_ids=[0]))
        elif not sampled:
            return result, None
        elif fault == "duplicate row":
            rows.append(self._rng.choice(rows))
        else:
            rows.remove(self._rng.choice(sampled))
            others = [work.row for work in plan.work if not work.num_samples]
            if fault == "missing row and failed row" and others:
                rows.append(RowResult(row=others[0], error="not a number"))
        self._history.add("fault", fault)
        return msgspec.structs.replace(result, rows=rows), fault

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
