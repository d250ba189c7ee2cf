"""A toy executor for tests of the scheduler: each next token is the number of tokens known so far, whatever is
proposed."""

from __future__ import annotations

from collections.abc import Callable

from simulation.invariants import check_roster

from flover.engine.executor import BlockingExecutor
from flover.engine.loop import Engine
from flover.engine.plan import RowResult, StepPlan, StepResult
from flover.engine.roster import SchedulerConfig
from flover.request import Delta, ModelFacts, Request, SamplingParams
from support.facts import model_facts


class ToyExecutor(BlockingExecutor):
    """Knows only how long each row is. `fail` may raise for a plan; `seconds` says how long a plan takes."""

    def __init__(
        self,
        facts: ModelFacts,
        fail: Callable[[StepPlan, dict[int, int]], None] = lambda plan, rows: None,
        seconds: Callable[[StepPlan], float] = lambda plan: 0.001,
    ) -> None:
        self.facts = facts
        self.now = 0.0
        self.plans: list[StepPlan] = []
        self.trimmed: list[list[int]] = []
        self.resets = 0
        self._fail = fail
        self._seconds = seconds
        self._sequences: dict[int, int] = {}
        self._lens: dict[int, int] = {}

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        for row in plan.evictions:
            self._lens.pop(row, None)
            self._sequences.pop(row, None)
        for move in plan.moves:
            self._lens[move.dst] = self._lens.pop(move.src)
            self._sequences[move.dst] = self._sequences.pop(move.src)
        for admission in plan.admissions:
            self._lens[admission.row] = admission.computed
            self._sequences[admission.row] = admission.sequence
        self._fail(plan, self._sequences)
        results = []
        for work in plan.work:
            assert self._lens[work.row] == work.start
            self._lens[work.row] += work.num_tokens
            if work.num_samples:
                end = self._lens[work.row] + 1
                results.append(RowResult(row=work.row, token_ids=list(range(end - work.num_samples, end))))
        self.now += self._seconds(plan)
        return StepResult(step=plan.step, rows=results)

    def reset(self) -> None:
        super().reset()
        self.resets += 1
        self._lens.clear()
        self._sequences.clear()

    def trim(self, free_pages: list[int]) -> None:
        self.trimmed.append(free_pages)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def make_engine(
    *,
    rows: int = 4,
    pages: int = 64,
    page_size: int = 4,
    batched: int = 64,
    max_model_len: int = 200,
    executor: Callable[[ModelFacts], ToyExecutor] = ToyExecutor,
    **config: object,
) -> tuple[Engine, ToyExecutor]:
    facts = model_facts(
        vocab_size=10_000,
        max_model_len=max_model_len,
        pool_tokens=pages * page_size,
        page_size=page_size,
        eos_ids=[9_999],
    )
    device = executor(facts)
    limits = SchedulerConfig(
        max_num_seqs=rows,
        max_num_batched_tokens=batched,
        page_size=page_size,
        num_pages=pages + 1,
        max_model_len=max_model_len,
        eos_ids=(9_999,),
        **config,  # type: ignore[arg-type]
    )
    return Engine(device, limits, lambda: device.now), device


def request(name: str, prompt_len: int = 5, max_tokens: int = 4, *, first: int = 100, **more: object) -> Request:
    priority = more.pop("priority", 0)
    params = SamplingParams(max_tokens=max_tokens, **more)  # type: ignore[arg-type]
    prompt = list(range(first, first + prompt_len))
    return Request(id=name, prompt_ids=prompt, params=params, seed=1, priority=priority)  # type: ignore[arg-type]


def run(engine: Engine, steps: int = 1000) -> list[Delta]:
    """Step until idle; the laws are checked after every iteration."""
    deltas: list[Delta] = []
    for _ in range(steps):
        if not engine.has_work:
            return deltas
        deltas += engine.step()
        check_roster(engine.roster)
    raise AssertionError(f"still working after {steps} steps")


def tokens_of(deltas: list[Delta], name: str, index: int = 0) -> list[int]:
    chosen = [delta for delta in deltas if (delta.request_id, delta.index) == (name, index)]
    return [token for delta in chosen for token in delta.token_ids]
