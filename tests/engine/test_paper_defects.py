"""The defects of the code that was released with the Flover paper (arXiv 2305.13484), each named and held off.

The release is a timing harness: read closely, it cannot produce correct tokens. What it does wrong is what is easy to
get wrong in temporal fusion, so each defect is a test here, on the integer-exact model of `tests/simulation`; those
that need tensors are in `tests/model/test_paper_defects_model.py`.
"""

from __future__ import annotations

from random import Random

import pytest
from simulation.hash_executor import HashExecutor
from simulation.hash_model import LONGEST, alone
from support.facts import model_facts

from flover.engine.loop import Engine
from flover.engine.plan import StepPlan, StepResult
from flover.engine.roster import SchedulerConfig
from flover.request import Delta, Request, SamplingParams

FACTS = model_facts(vocab_size=50_000, max_model_len=600, pool_tokens=20_000, page_size=4)


class Device(HashExecutor):
    """The hash model, with a memory of its plans, and after each of who is alive and which pages each sequence has."""

    def __init__(self, *, reorder: bool) -> None:
        super().__init__(FACTS, max_num_seqs=16, reorder=reorder)
        self.plans: list[StepPlan] = []
        self.tables: list[dict[int, list[int]]] = []
        self.alive: list[list[int]] = []

    def run(self, plan: StepPlan) -> StepResult:
        result = super().run(plan)
        self.plans.append(plan)
        self.alive.append(sorted(self.rows))
        self.tables.append({row.sequence: list(row.pages) for row in self.rows.values()})
        return result

    def written(self, number: int) -> list[tuple[int, int]]:
        """(token, position) in the slots of a row, read through its page table."""
        row = self.rows[number]
        return [divmod(int(mark), LONGEST) for mark in self._written[row.slots[: row.computed]]]


def make(*, reorder: bool = True, chunk: int = 64) -> tuple[Engine, Device]:
    device = Device(reorder=reorder)
    config = SchedulerConfig(
        max_num_seqs=16,
        max_num_batched_tokens=chunk,
        page_size=FACTS.page_size,
        num_pages=FACTS.pool_tokens // FACTS.page_size + 1,
        max_model_len=FACTS.max_model_len,
        enable_prefix_caching=False,
        reorder=reorder,
    )
    return Engine(device, config, lambda: 0.0), device


def ask(number: int, prompt: list[int], max_tokens: int, **params: float) -> Request:
    """Requests differ in prompt and seed; more parameters as given."""
    chosen = {"max_tokens": max_tokens, **params}
    return Request(id=f"r{number}", prompt_ids=prompt, params=SamplingParams(**chosen), seed=100 * number)  # type: ignore[arg-type]


def finish(engine: Engine) -> dict[str, list[int]]:
    """Run until idle; the tokens of each request."""
    answers: dict[str, list[int]] = {}
    while engine.has_work:
        take(answers, engine.step())
    return answers


def take(answers: dict[str, list[int]], deltas: list[Delta]) -> None:
    for delta in deltas:
        answers.setdefault(delta.request_id, []).extend(delta.token_ids)


def lone(request: Request) -> list[int]:
    """The tokens of a request that never met an engine."""
    return alone(request, 0, FACTS).token_ids


def prompts(count: int, length: int = 9) -> list[list[int]]:
    rng = Random(count)
    return [[rng.randrange(FACTS.vocab_size) for _ in range(length)] for _ in range(count)]


def test_defect_1_the_prompt_is_never_processed() -> None:
    prompt = prompts(1, length=150)[0]
    engine, device = make(chunk=64)
    engine.submit(ask(0, prompt, 3))
    answer = finish(engine)["r0"]
    computed = [token for plan in device.plans for chunk in plan.chunks for token in chunk.token_ids]
    assert computed == prompt
    for position in (0, 63, 64, 149):
        other = prompt.copy()
        other[position] += 1
        engine, _ = make(chunk=64)
        engine.submit(ask(0, other, 3))
        assert finish(engine)["r0"] != answer, f"the token at {position} has no say"


def test_defect_2_a_request_is_ready_before_its_prompt_is_done() -> None:
    engine, device = make(chunk=16)
    engine.submit(ask(0, prompts(1, length=100)[0], 4))
    first_token = next(step for step in range(100) if engine.step())
    assert [plan.generating for plan in device.plans] == [[]] * 7  # 100 tokens in chunks of 16
    assert first_token == 6
    assert [chunk.num_samples for plan in device.plans for chunk in plan.chunks] == [0] * 6 + [1]


@pytest.mark.parametrize("reorder", [True, False])
def test_defect_4_a_move_leaves_keys_and_values_behind(reorder: bool) -> None:
    """A request that sits at the end moves when one in the middle ends, and goes on as if nothing had happened."""
    requests = [
        ask(n, prompt, tokens) for n, (prompt, tokens) in enumerate(zip(prompts(4), (30, 5, 40, 60), strict=True))
    ]
    engine, device = make(reorder=reorder)
    for request in requests:
        engine.submit(request)
    answers = finish(engine)
    assert any(plan.moves for plan in device.plans) == reorder
    assert answers == {request.id: lone(request) for request in requests}


def test_defect_5_keys_and_values_are_found_elsewhere_after_somebody_joins_or_leaves() -> None:
    engine, device = make()
    for number, prompt in enumerate(prompts(6)):
        engine.submit(ask(number, prompt, 4 + 5 * number))
        engine.step()
    finish(engine)
    for before, after in zip(device.tables, device.tables[1:], strict=False):
        for sequence in before.keys() & after.keys():
            assert after[sequence][: len(before[sequence])] == before[sequence]


def test_defect_6_every_token_is_written_to_the_same_place_and_none_is_fed_back() -> None:
    prompt = prompts(1)[0]
    engine, device = make()
    engine.submit(ask(0, prompt, 30))
    answers: dict[str, list[int]] = {}
    for _ in range(29):
        take(answers, engine.step())
    # 29 tokens are out, and all but the last, which has not been fed back yet, lie one after another.
    known = prompt + answers["r0"][:-1]
    assert device.written(0) == [(token, position) for position, token in enumerate(known)]


def test_defect_8_a_move_needs_an_arrival_in_the_same_iteration_to_know_its_lengths() -> None:
    requests = [ask(n, prompt, 5 + 35 * (n % 2)) for n, prompt in enumerate(prompts(8))]
    engine, device = make()
    for request in requests:
        engine.submit(request)
    answers = finish(engine)
    assert any(plan.moves and not plan.admissions for plan in device.plans)
    assert answers == {request.id: lone(request) for request in requests}


@pytest.mark.parametrize("reorder", [True, False])
@pytest.mark.parametrize("gap", [0, 1, 7, 42])
def test_defect_9_the_window_misses_live_rows_or_looks_up_dead_ones(gap: int, reorder: bool) -> None:
    """Lengths and gaps like the paper's. The window is exactly the live rows, or without reordering what lies between
    them; the device refuses plans that name a dead row."""
    rng = Random(gap)
    requests = [ask(n, prompt, rng.randint(128, 512)) for n, prompt in enumerate(prompts(32, length=8))]
    engine, device = make(reorder=reorder)
    answers: dict[str, list[int]] = {}
    for request in requests:
        engine.submit(request)
        for _ in range(gap):
            take(answers, engine.step())
    answers |= {name: answers.get(name, []) + tokens for name, tokens in finish(engine).items()}
    assert answers == {request.id: lone(request) for request in requests}
    for plan, alive in zip(device.plans, device.alive, strict=True):
        assert plan.window == ((0, len(alive)) if reorder else (alive[0], alive[-1] + 1))
    assert engine.roster.rows.window == (0, 0)


def test_defect_10_sampling_settings_are_those_of_the_first_request_or_random() -> None:
    temperatures = (0.3, 1.0, 1.7, 1.0)
    requests = [
        ask(n, prompt, 20, temperature=temperature)
        for n, (prompt, temperature) in enumerate(zip(prompts(4), temperatures, strict=True))
    ]
    for order in (requests, requests[::-1]):
        engine, _ = make()
        for request in order:
            engine.submit(request)
        assert finish(engine) == {request.id: lone(request) for request in requests}
    warmer = ask(0, requests[0].prompt_ids, 20, temperature=1.7)
    assert lone(warmer) != lone(requests[0])
