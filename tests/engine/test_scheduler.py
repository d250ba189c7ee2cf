"""Who enters, who waits, who is preempted: on a toy executor, without torch."""

import msgspec
import pytest
from simulation.invariants import check_roster
from support.toy import ToyExecutor, make_engine, request, run, tokens_of

from flover.engine import scheduler
from flover.engine.plan import StepPlan, Work
from flover.engine.sequence import MAX_PREEMPTIONS, Sequence
from flover.engine.stats import EngineStats
from flover.errors import EngineDeadError, RequestError
from flover.request import FinishReason, ModelFacts


def test_a_request_yields_its_tokens_and_ends_once() -> None:
    engine, _ = make_engine()
    engine.submit(request("a", prompt_len=5, max_tokens=4))
    deltas = run(engine)
    assert tokens_of(deltas, "a") == [5, 6, 7, 8]
    assert [delta.finish_reason for delta in deltas] == [None, None, None, FinishReason.LENGTH]
    assert engine.roster.pool.used == 0


def test_a_newcomer_joins_at_the_next_iteration_and_the_one_who_is_done_leaves() -> None:
    engine, device = make_engine()
    engine.submit(request("a", max_tokens=6))
    engine.step()
    engine.submit(request("b", max_tokens=2, first=500))
    run(engine)
    fused = [(len(plan.chunks), len(plan.generating)) for plan in device.plans]
    assert fused == [(1, 0), (1, 1), (0, 2), (0, 1), (0, 1), (0, 1)]


def test_generation_goes_first_and_the_cap_holds() -> None:
    engine, device = make_engine(batched=8)
    engine.submit(request("a", prompt_len=3, max_tokens=20))
    engine.step()
    engine.submit(request("b", prompt_len=30, max_tokens=2, first=500))
    run(engine)
    assert all(plan.num_tokens <= 8 for plan in device.plans)
    chunks = [len(chunk.token_ids) for plan in device.plans[1:] for chunk in plan.chunks]
    assert chunks == [7, 7, 7, 7, 2]
    assert all(plan.generating for plan in device.plans[1:6])


def test_first_come_first_served() -> None:
    engine, _ = make_engine(rows=1)
    for name in "abc":
        engine.submit(request(name, max_tokens=2))
    ends = [delta.request_id for delta in run(engine) if delta.finish_reason]
    assert ends == ["a", "b", "c"]


def test_priority_goes_before_arrival_when_asked_for() -> None:
    engine, _ = make_engine(rows=1, policy="priority")
    for name, priority in (("a", 0), ("b", 5), ("c", -1)):
        engine.submit(request(name, max_tokens=2, priority=priority))
    ends = [delta.request_id for delta in run(engine) if delta.finish_reason]
    assert ends == ["c", "a", "b"]


def test_an_empty_pool_preempts_the_youngest_which_is_computed_again() -> None:
    engine, _ = make_engine(pages=6, page_size=4, enable_prefix_caching=False)
    engine.submit(request("a", prompt_len=8, max_tokens=12))
    engine.submit(request("b", prompt_len=8, max_tokens=12, first=500))
    deltas = run(engine)
    assert engine.stats().preemptions > 0
    assert tokens_of(deltas, "a") == tokens_of(deltas, "b") == list(range(8, 20))
    ends = [delta.request_id for delta in deltas if delta.finish_reason]
    assert ends == ["a", "b"]


def test_preemptions_are_bounded() -> None:
    engine, _ = make_engine(rows=8, pages=12, page_size=2, enable_prefix_caching=False)
    for number in range(20):
        engine.submit(request(f"r{number}", prompt_len=3, max_tokens=17, first=100 * number))
    seen = 0
    while engine.has_work:
        engine.step()
        check_roster(engine.roster)
        everybody = (*engine.roster.running, *engine.roster.waiting)
        seen = max([seen, *(sequence.preemptions for sequence in everybody)])
    assert 0 < seen <= MAX_PREEMPTIONS


def test_a_known_beginning_is_not_computed_again() -> None:
    engine, device = make_engine()
    engine.submit(request("a", prompt_len=10, max_tokens=2))
    run(engine)
    engine.submit(request("b", prompt_len=10, max_tokens=2))
    deltas = run(engine)
    assert device.plans[-2].admissions[0].computed == 8
    assert deltas[0].cached_tokens == 8
    assert tokens_of(deltas, "b") == [10, 11]


def test_a_prefix_is_not_shared_before_it_is_computed_nor_across_salts() -> None:
    engine, device = make_engine(batched=8)
    engine.submit(request("a", prompt_len=12, max_tokens=2))
    engine.submit(request("b", prompt_len=12, max_tokens=2))
    run(engine)
    computed = {admission.sequence: admission.computed for plan in device.plans for admission in plan.admissions}
    assert computed[0] == 0
    assert computed[1] <= 8


@pytest.mark.parametrize("caching", [True, False])
def test_sequences_of_one_request_share_the_prompts_pages(caching: bool) -> None:
    engine, _ = make_engine(enable_prefix_caching=caching)
    engine.submit(request("a", prompt_len=9, max_tokens=3, n=3, temperature=1.0))
    engine.step()
    engine.step()
    pages = [sequence.pages[:2] for sequence in engine.roster.running]
    assert len(pages) == 3
    assert pages[0] == pages[1] == pages[2]
    deltas = run(engine)
    assert engine.roster.pool.used == 0
    assert engine.roster.pool.cached == (0 if not caching else engine.roster.pool.cached)
    assert sum(delta.finish_reason is not None for delta in deltas) == 3


def test_cancel_frees_everything_at_once() -> None:
    engine, _ = make_engine()
    engine.submit(request("a", max_tokens=50))
    engine.step()
    engine.cancel("a")
    (delta,) = engine.step()
    assert delta.finish_reason is FinishReason.ABORT
    assert engine.roster.pool.used == 0
    assert not engine.has_work


def test_cancel_of_one_sequence_leaves_its_siblings() -> None:
    engine, _ = make_engine()
    engine.submit(request("a", max_tokens=5, n=2))
    engine.step()
    engine.cancel("a", 1)
    deltas = run(engine)
    reasons = {delta.index: delta.finish_reason for delta in deltas if delta.finish_reason}
    assert reasons == {1: FinishReason.ABORT, 0: FinishReason.LENGTH}


def test_a_request_that_can_never_fit_is_refused_at_the_door() -> None:
    engine, _ = make_engine(pages=4, page_size=4)
    with pytest.raises(RequestError, match="key/value pool of 16"):
        engine.submit(request("a", prompt_len=16, max_tokens=1))
    engine.submit(request("b", prompt_len=10, max_tokens=7))
    assert len(tokens_of(run(engine), "b")) == 6


def test_an_open_request_id_is_refused() -> None:
    engine, _ = make_engine()
    engine.submit(request("a"))
    with pytest.raises(RequestError, match="in use"):
        engine.submit(request("a"))
    run(engine)
    engine.submit(request("a"))


def test_only_the_request_that_fails_alone_ends_with_an_error() -> None:
    def fail(plan: StepPlan, rows: dict[int, int]) -> None:
        busy = {rows[row] for row in plan.generating} | {rows[chunk.row] for chunk in plan.chunks}
        if 1 in busy:
            raise MemoryError("sequence 1 is too much")

    engine, device = make_engine(executor=lambda facts: ToyExecutor(facts, fail))
    for name in "abc":
        engine.submit(request(name, max_tokens=5))
    deltas = run(engine)
    ends = {delta.request_id: delta for delta in deltas if delta.finish_reason}
    assert ends["b"].finish_reason is FinishReason.ERROR
    assert ends["b"].error == "MemoryError: sequence 1 is too much"
    assert tokens_of(deltas, "a") == tokens_of(deltas, "c") == [5, 6, 7, 8, 9]
    assert device.resets == engine.stats().faults > 0


def test_a_device_that_always_fails_is_dead() -> None:
    def fail(plan: StepPlan, rows: dict[int, int]) -> None:
        raise RuntimeError("no device")

    engine, _ = make_engine(executor=lambda facts: ToyExecutor(facts, fail))
    with pytest.raises(EngineDeadError, match="no device"):
        for number in range(30):
            engine.submit(request(f"r{number}"))
            run(engine)


def test_idle_memory_is_given_back_once() -> None:
    engine, device = make_engine(enable_prefix_caching=False)
    assert not engine.wait(0)
    assert device.trimmed == []
    engine.submit(request("a"))
    assert engine.wait(0)
    run(engine)
    assert not engine.wait(0)
    assert not engine.wait(0)
    assert device.trimmed == [list(range(1, 65))]


def test_a_long_prompt_keeps_the_target_once_the_cost_is_known() -> None:
    def seconds(plan: StepPlan) -> float:
        return 0.010 + 0.001 * plan.num_tokens

    def executor(facts: ModelFacts) -> ToyExecutor:
        return ToyExecutor(facts, seconds=seconds)

    engine, device = make_engine(
        pages=400, max_model_len=1500, batched=1024, target_itl_ms=60.0, executor=executor, rows=4
    )
    for name in "abc":
        engine.submit(request(name, prompt_len=4, max_tokens=150))
    for _ in range(20):
        engine.step()
    engine.submit(request("long", prompt_len=1000, max_tokens=2, first=1000))
    before = len(device.plans)
    run(engine)
    busy = [plan for plan in device.plans[before:] if plan.generating]
    assert max(seconds(plan) for plan in busy) <= 0.060 * 1.1
    assert sum(len(chunk.token_ids) for plan in busy for chunk in plan.chunks) >= 1000


@pytest.mark.parametrize("proposals", [1, 2, 5])
def test_a_row_may_bring_several_tokens(proposals: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those behind the last one (max_tokens, a stop token) do not count; the pages of the others are found again."""
    requests = [request("a", 6, 9), request("b", 3, 40, stop_token_ids=[14]), request("c", 5, 2, logprobs=0)]

    def answers() -> tuple[dict[str, tuple[list[int], object, object]], int, EngineStats]:
        engine, device = make_engine(page_size=4)
        for one in requests:
            engine.submit(one)
        deltas = run(engine)
        again = msgspec.structs.replace(requests[0], id="d", prompt_ids=requests[0].prompt_ids + tokens_of(deltas, "a"))
        engine.submit(again)
        deltas += run(engine)
        last = {delta.request_id: delta for delta in deltas}
        told = {name: (tokens_of(deltas, name), one.finish_reason, one.stop_reason) for name, one in last.items()}
        assert last["d"].cached_tokens == 12  # of a: 6 in the prompt, 8 of the 9 that it brought
        return told, len(device.plans), engine.stats()

    alone, steps, stats = answers()

    def propose(sequence: Sequence, proposed: list[int]) -> Work:
        count = min(proposals, len(sequence.pages) * 4 - len(sequence.token_ids))
        return generate(sequence, [0] * count)

    generate = scheduler._generate
    monkeypatch.setattr(scheduler, "_generate", propose)
    proposed, fewer, others = answers()
    assert proposed == alone
    assert fewer < steps
    assert others.generation_tokens == stats.generation_tokens


def test_a_request_goes_on_after_the_tokens_that_it_has() -> None:
    """As a preempted one does; what it has counts for max_tokens, and is not reported."""
    engine, device = make_engine(page_size=4)
    one = msgspec.structs.replace(request("a", 6, 9, n=2), output_ids=[[50, 51, 52], []])
    engine.submit(one)
    deltas = run(engine)
    assert tokens_of(deltas, "a", 0) == list(range(9, 15))
    assert tokens_of(deltas, "a", 1) == list(range(6, 15))
    admitted = [admission for plan in device.plans for admission in plan.admissions]
    assert [admission.output_ids for admission in admitted] == [[50, 51, 52], []]
    assert engine.stats().finished["length"] == 2
    for wrong, words in (([[1] * 9, []], "9 tokens, of 9 at most"), ([[1]], "1 sequences, n is 2")):
        with pytest.raises(RequestError, match=words):
            engine.submit(msgspec.structs.replace(one, output_ids=wrong))
