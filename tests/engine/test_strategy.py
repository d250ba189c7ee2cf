"""The strategies that the paper compares fusion with: who enters when, and how long rows are computed."""

import math

import pytest
from support.toy import ToyExecutor, make_engine, request, run, tokens_of

from flover.engine.loop import Engine
from flover.engine.plan import StepPlan
from flover.engine.sequence import Sequence
from flover.engine.strategy import Strategy, choose_batch, opens_at


def waiting(*arrivals: float, n: int = 1) -> list[Sequence]:
    made = []
    for number, arrived in enumerate(arrivals):
        one = request(f"r{number}", n=n)
        made += [Sequence(number * n + index, one, index, list(one.prompt_ids), arrived) for index in range(n)]
    return made


def test_a_window_opens_when_it_has_passed_or_the_batch_is_full() -> None:
    queue = waiting(1.0, 1.3, 1.4)
    assert opens_at(Strategy.DYNAMIC_BATCHING, queue, 8, 0.5) == 1.5
    assert opens_at(Strategy.DYNAMIC_BATCHING, queue, 3, 0.5) == -math.inf
    assert opens_at(Strategy.STATIC, queue, 8, 0.5) == -math.inf
    assert opens_at(Strategy.FUSION, [], 8, 0.5) == math.inf


def test_a_serial_batch_is_one_request_with_all_its_sequences() -> None:
    assert [s.number for s in choose_batch(Strategy.SERIAL, waiting(0, 0, n=2), 8)] == [0, 1]
    assert [s.number for s in choose_batch(Strategy.STATIC, waiting(0, 0, 0), 2)] == [0, 1]


def make(strategy: Strategy, **more: object) -> tuple[Engine, ToyExecutor]:
    return make_engine(strategy=strategy, **more)  # type: ignore[arg-type]


def live(plan: StepPlan) -> int:
    return len(plan.work)


def test_serial_has_one_request_at_a_time() -> None:
    engine, device = make(Strategy.SERIAL)
    for name in "abc":
        engine.submit(request(name, max_tokens=3))
    deltas = run(engine)
    assert {live(plan) for plan in device.plans} == {1}
    assert len(device.plans) == 9
    assert [delta.request_id for delta in deltas if delta.finish_reason] == ["a", "b", "c"]


@pytest.mark.parametrize("strategy", [Strategy.STATIC, Strategy.DYNAMIC_BATCHING])
def test_a_static_batch_computes_every_row_until_its_longest_is_done(strategy: Strategy) -> None:
    engine, device = make(strategy)
    for name, length in (("a", 2), ("b", 6), ("c", 4)):
        engine.submit(request(name, max_tokens=length))
    engine.step()
    engine.submit(request("late", max_tokens=1))
    run(engine)
    batch, late = device.plans[:6], device.plans[6:]
    assert [plan.num_tokens for plan in batch[1:]] == [3] * 5
    assert [len(plan.dead) for plan in batch] == [0, 0, 1, 1, 2, 2]
    assert not any(plan.moves for plan in device.plans)
    assert [admission.sequence for plan in late for admission in plan.admissions] == [3]


def test_a_batch_enters_whole_even_if_its_prompts_need_several_iterations() -> None:
    engine, device = make(Strategy.STATIC, batched=4)
    for name in "abc":
        engine.submit(request(name, prompt_len=4, max_tokens=4))
    engine.step()
    engine.submit(request("late", prompt_len=4, max_tokens=1))
    run(engine)
    entered = [(plan.step, admission.sequence) for plan in device.plans for admission in plan.admissions]
    assert [sequence for _, sequence in entered] == [0, 1, 2, 3]
    last_of_batch = max(plan.step for plan in device.plans if len(plan.work) + len(plan.dead) > 1)
    assert entered[3][0] > last_of_batch


def test_dynamic_batching_waits_for_company_and_tells_how_long() -> None:
    engine, device = make(Strategy.DYNAMIC_BATCHING, batch_window=1.0)
    device.now = 5.0
    engine.submit(request("a", max_tokens=2))
    assert engine.step() == []
    assert not engine.wait(0.01)
    device.now = 5.5
    engine.submit(request("b", max_tokens=2))
    assert engine.wait(0.01)  # a newcomer: it has to be seen, the window stays closed
    assert engine.step() == [] and not device.plans
    device.now = 6.0
    assert engine.wait(0.01)
    run(engine)
    assert len(device.plans[0].admissions) == 2


def test_a_static_strategy_gives_the_tokens_that_fusion_gives() -> None:
    said = []
    for strategy in Strategy:
        engine, _ = make(strategy, pages=12)  # too few for all at once: somebody is preempted or waits
        for name, length in (("a", 9), ("b", 14), ("c", 4), ("d", 12)):
            engine.submit(request(name, prompt_len=6, max_tokens=length))
        deltas = run(engine)
        said.append({name: tokens_of(deltas, name) for name in "abcd"})
    assert all(one == said[0] for one in said)
