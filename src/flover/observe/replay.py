"""A recorded schedule, run again: a new engine gets the same inputs at the same steps, and reads the same clock.

Every plan must come out the same; with a model behind it every token too, whatever the threads and the instruction set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from flover.engine.executor import BlockingExecutor, Executor
from flover.engine.loop import Engine
from flover.engine.observer import ExecutedPlan, Observer
from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.engine.queue import Cancel
from flover.engine.roster import Roster
from flover.errors import ConfigError, EngineDeadError, InvariantError
from flover.observe.record import Head, Outline, StepRecord, outline_of
from flover.observe.record_reader import Record
from flover.observe.wrapped import WrappedExecutor
from flover.request import ModelFacts
from flover.structured_outputs import Vocabulary

_SAME_FACTS = ("architecture", "vocab_size", "max_model_len", "page_size", "eos_ids", "num_parameters", "dtype")
"""What decisions and tokens hang on. The pool may be larger than it was: the scheduler keeps to the recorded one."""


class RecordedFaultError(Exception):
    """What the executor raised when the record was made."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first step at which something came out otherwise; both sides for people to read."""

    step: int
    what: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Replay:
    """How far a replay went and what was the same. Plans and tokens are those of the record up to the first plan that
    differs; nothing after it can be compared."""

    steps: int
    plans: int
    plans_equal: int
    tokens: int
    tokens_equal: int
    difference: Difference | None


class RecordedExecutor(BlockingExecutor):
    """Computes nothing: it returns what the record holds."""

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self.recorded: StepRecord | None = None
        """The step that runs next."""

    def run(self, plan: StepPlan) -> StepResult:
        """Nothing yet: results are those of the step in which the plan is finished."""
        return StepResult(step=plan.step, rows=[])

    def finish(self) -> StepResult:
        """The recorded results of this step."""
        finished = super().finish()
        if self.recorded is None:
            raise InvariantError(f"step {finished.step} was planned before the record began")
        proposed = dict(self.recorded.proposed)
        rows = [
            RowResult(row=row, token_ids=token_ids, proposals=proposed.get(row, []))
            for row, token_ids in self.recorded.tokens
        ]
        failed = [RowResult(row=row, error=error) for row, error in self.recorded.errors]
        return StepResult(step=finished.step, rows=rows + failed)

    def trim(self, free_pages: list[int]) -> None: ...

    def check(self) -> None: ...

    def close(self) -> None: ...


def check_facts(head: Head, facts: ModelFacts) -> None:
    """Refuse a model that cannot do what the recorded one did. Raises `ConfigError`."""
    for name in _SAME_FACTS:
        recorded, found = getattr(head.facts, name), getattr(facts, name)
        if recorded != found:
            raise ConfigError(f"the record was made with {name} {recorded}, the model has {found}")
    if facts.pool_tokens < head.facts.pool_tokens:
        raise ConfigError(
            f"the record was made with a key/value pool of {head.facts.pool_tokens} tokens, here there is room for "
            f"{facts.pool_tokens}: memory is short, or --kv-cache-memory-bytes was given for other pages"
        )


def replay(
    record: Record,
    executor: Executor,
    progress: Callable[[int], None] = lambda steps: None,
    vocabulary: Vocabulary | None = None,
) -> Replay:
    """Run a record on an executor and compare. `progress` is told how many steps are done. `vocabulary` is for requests
    with structured outputs."""
    check_facts(record.head, executor.facts)
    return _Player(record, executor, vocabulary).play(progress)


class _Player:
    """One replay."""

    def __init__(self, record: Record, executor: Executor, vocabulary: Vocabulary | None) -> None:
        self._record = record
        self._vocabulary = vocabulary
        self._clock = _ReplayClock()
        self._witness = _Witness()
        self._executor = _Faulty(executor)
        self._recorded = executor if isinstance(executor, RecordedExecutor) else None
        self._engine = Engine(self._executor, record.head.scheduler, self._clock)
        self._engine.observe(self._witness)

    def play(self, progress: Callable[[int], None]) -> Replay:
        steps = plans = tokens = tokens_equal = 0
        difference: Difference | None = None
        for step in self._record.steps:
            self._step(step)
            steps += 1
            plans += step.plan is not None
            wrong = self._wrong_plan(step)
            if wrong is not None:
                difference = difference or wrong
                return Replay(steps, plans, plans - 1, tokens, tokens_equal, difference)
            for row, token_ids in step.tokens:
                tokens += len(token_ids)
                replayed = self._witness.tokens.get(row, [])
                tokens_equal += sum(one == other for one, other in zip(token_ids, replayed, strict=False))
            difference = difference or self._wrong_result(step)
            progress(steps)
        return Replay(steps, plans, plans, tokens, tokens_equal, difference)

    def _step(self, step: StepRecord) -> None:
        self._clock.script(step.clock)
        self._executor.fault, self._executor.offload_error = step.fault, step.offload_error
        if self._recorded is not None:
            self._recorded.recorded = step
        if step.forgot:
            self._engine.reset_prefix_cache()
        for one in step.inputs:
            if isinstance(one, Cancel):
                self._engine.cancel(one.request_id, one.index)
            else:
                self._engine.submit(one.request, self._vocabulary)
        self._witness.forget()
        try:
            self._engine.step()
        except EngineDeadError as error:
            self._witness.fault = self._witness.fault or str(error)

    def _wrong_plan(self, step: StepRecord) -> Difference | None:
        plan = self._witness.plan
        if ("" if plan is None else self._record.digest(plan)) == step.digest:
            return None
        number = step.plan.step if step.plan is not None else -1 if plan is None else plan.step
        outline = None if plan is None else outline_of(plan)
        what = "plan"
        if outline == step.plan:
            what = "plan (its prompts or parameters; rows, pages and counts are the same)"
        return Difference(number, what, _show(step.plan), _show(outline))

    def _wrong_result(self, step: StepRecord) -> Difference | None:
        witness = self._witness
        number = witness.ran_step if step.plan is None else step.plan.step
        if witness.fault != _as_raised(step.fault):
            return Difference(number, "fault", str(step.fault), str(witness.fault))
        recorded, replayed = dict(step.tokens), witness.tokens
        if recorded != replayed:
            rows = sorted(row for row in recorded.keys() | replayed if recorded.get(row) != replayed.get(row))
            return Difference(number, f"tokens of rows {rows}", _tokens(recorded, rows), _tokens(replayed, rows))
        return None


class _ReplayClock:
    """Says again what it said then; when that is used up, the last of it."""

    def __init__(self) -> None:
        self._readings: deque[float] = deque()
        self._last = 0.0

    def script(self, readings: Iterable[float]) -> None:
        self._readings = deque(readings)

    def __call__(self) -> float:
        if self._readings:
            self._last = self._readings.popleft()
        return self._last


class _Witness(Observer):
    """Remembers the plan and the outcome of one step."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.plan: StepPlan | None = None
        self.ran_step = -1
        self.tokens: dict[int, list[int]] = {}
        self.fault: str | None = None

    def planned(self, roster: Roster, plan: StepPlan | None) -> None:
        self.plan = plan

    def ran(self, run: ExecutedPlan) -> None:
        self.ran_step = run.plan.step
        self.tokens = {row: one.token_ids for row, one in run.rows.items() if one.token_ids}
        self.fault = run.fault


class _Faulty(WrappedExecutor):
    """An executor that raises, and gives the host tier up, where the recorded one did."""

    fault: str | None = None
    offload_error: str | None = None

    def start(self, plan: StepPlan) -> None:
        if self.fault is not None:
            raise RecordedFaultError(self.fault)
        super().start(plan)

    def finish(self) -> StepResult:
        if self.fault is not None:
            raise RecordedFaultError(self.fault)
        return msgspec.structs.replace(super().finish(), offload_error=self.offload_error)


def _as_raised(fault: str | None) -> str | None:
    """What the loop makes of a recorded fault."""
    return None if fault is None else f"{RecordedFaultError.__name__}: {fault}"


def _show(outline: Outline | None) -> str:
    return "nothing to do" if outline is None else msgspec.json.encode(outline).decode()


def _tokens(tokens: Mapping[int, list[int]], rows: Iterable[int]) -> str:
    return ", ".join(f"row {row}: {' '.join(map(str, tokens.get(row, []))) or 'none'}" for row in rows)
