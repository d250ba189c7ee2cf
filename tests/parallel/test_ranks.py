"""The plan is made once: ranks that are late at random run rank 0's plans and no others, and drifting is noticed."""

from __future__ import annotations

import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from random import Random

import msgspec
import pytest
from simulation.hash_executor import HashExecutor
from simulation.workload import Scenario, draw_scenario

from flover.engine.executor import BlockingExecutor
from flover.engine.loop import Engine
from flover.engine.plan import StepPlan, StepResult
from flover.errors import EngineDeadError, InvariantError, RankLostError, RequestError
from flover.executor.background import BackgroundExecutor
from flover.parallel.frames import RunPlan, decode, encode
from flover.parallel.ranks import Leader, follow

NUM_FOLLOWERS = 2
STEPS = 30


class Channel:
    """Frames in memory; who receives is late now and then."""

    calls, num_bytes, seconds = 0, 0, 0.0  # the hash model needs no collectives

    def __init__(self, seed: int) -> None:
        self.queues = [queue.SimpleQueue[bytes]() for _ in range(NUM_FOLLOWERS)]
        self.rng = Random(seed)

    def check(self) -> None: ...

    def close(self) -> None: ...

    def send(self, frame: bytes) -> None:
        for waiting in self.queues:
            waiting.put(frame)

    def receiver(self, index: int, change: Callable[[bytes], bytes] = lambda frame: frame) -> Receiver:
        return Receiver(self.queues[index], Random(self.rng.random()), change)


class Receiver:
    calls, num_bytes, seconds = 0, 0, 0.0

    def __init__(self, waiting: queue.SimpleQueue[bytes], rng: Random, change: Callable[[bytes], bytes]) -> None:
        self.waiting, self.rng, self.change = waiting, rng, change

    def receive(self) -> bytes:
        if self.rng.random() < 0.1:
            time.sleep(self.rng.random() * 1e-3)
        return self.change(self.waiting.get(timeout=10))

    def check(self) -> None: ...

    def send(self, frame: bytes) -> None:
        raise AssertionError("followers say nothing")


class HashRank(BlockingExecutor):
    """A rank whose device is the hash model, which raises where a plan does not fit what it holds."""

    overlaps = False

    def sample_started(self) -> None: ...

    def __init__(self, scenario: Scenario, decide: Callable[[StepPlan], StepPlan] = lambda plan: plan) -> None:
        config = scenario.config
        self.model = HashExecutor(
            scenario.facts, max_num_seqs=config.max_num_seqs, reorder=config.reorder, num_slots=config.num_slots
        )
        self.facts = scenario.facts
        self.decide = decide
        self.plans: list[bytes] = []
        self.own: dict[int, int] = {}
        self.digest = 0

    def run(self, plan: StepPlan) -> StepResult:
        plan = self.decide(plan)
        self.plans.append(msgspec.msgpack.encode(plan))
        self.digest = zlib.crc32(self.plans[-1], self.digest)
        result = self.model.run(plan)
        self.own = {row.row: row.token_ids[-1] for row in result.rows if row.token_ids}
        return result

    def take(self, tokens: Iterable[tuple[int, int]]) -> None:
        assert dict(tokens) == self.own

    def reset(self) -> None:
        super().reset()
        self.model.reset()
        self.own = {}

    def trim(self, free_pages: list[int]) -> None:
        self.model.trim(free_pages)

    def check(self) -> None: ...

    def close(self) -> None: ...


def drive(engine: Engine, scenario: Scenario) -> None:
    """Requests come and are cancelled at random for some iterations; then everybody finishes or is cancelled."""
    rng, open_ids = scenario.rng, []
    for step in range(10 * STEPS):
        if step < STEPS and rng.random() < 0.5:
            request = scenario.next_request()
            try:
                engine.submit(request)
            except RequestError:
                continue
            open_ids.append(request.id)
        if open_ids and (rng.random() < 0.1 or step > 2 * STEPS):
            engine.cancel(open_ids.pop(rng.randrange(len(open_ids))))
        if engine.has_work:
            engine.step()
        elif step % 7 == 0:
            engine.wait(0)
        if step > STEPS and not engine.has_work:
            break
    engine.close()


def run_group(seed: int, plant: Callable[[StepPlan], StepPlan] | None = None) -> tuple[HashRank, list[HashRank], list]:
    scenario = draw_scenario(seed)
    channel = Channel(seed)
    followers = [HashRank(scenario) for _ in range(NUM_FOLLOWERS)]
    if plant is not None:
        followers[-1].decide = plant
    errors: list[BaseException] = []

    def body(index: int, rank: HashRank) -> None:
        try:
            follow(rank, channel.receiver(index))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=item, daemon=True) for item in enumerate(followers)]
    for thread in threads:
        thread.start()
    own, clock = HashRank(scenario), iter(range(10**9))
    leader = Leader(own, channel, lambda: None, lambda kindly: None)
    executor = BackgroundExecutor(leader) if scenario.config.async_scheduling else leader
    drive(Engine(executor, scenario.config, lambda: next(clock) / 100), scenario)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return own, followers, errors


def test_no_rank_ever_runs_another_plan() -> None:
    steps = 0
    for seed in range(200):
        own, followers, errors = run_group(seed)
        assert not errors, (seed, errors)
        assert all(rank.plans == own.plans for rank in followers), seed
        steps += len(own.plans)
    assert steps > 200 * 10


def test_a_rank_that_decides_for_itself_is_caught() -> None:
    def leave_one_out(plan: StepPlan) -> StepPlan:
        return msgspec.structs.replace(plan, work=plan.work[:-1])

    _, (honest, _), errors = run_group(1, leave_one_out)
    assert [type(error) for error in errors] == [InvariantError], errors
    assert "something else than rank 0" in str(errors[0])
    assert honest.plans


def test_a_frame_that_is_missing_is_noticed() -> None:
    scenario, channel = draw_scenario(3), Channel(0)
    plan = StepPlan(step=1, evictions=[], moves=[], admissions=[], grants=[], work=[], window=(0, 0))
    channel.send(encode(RunPlan(1, plan, [], 0)))
    with pytest.raises(InvariantError, match="frame 1 of rank 0 came where frame 0 was due"):
        follow(HashRank(scenario), channel.receiver(0))


def test_frames_are_frozen_and_closed() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode({"type": "plan it yourself", "number": 0}))


def test_whatever_fails_on_rank_0_ends_the_group() -> None:
    def fail(plan: StepPlan) -> StepPlan:
        raise MemoryError("no room")

    scenario = draw_scenario(5)
    leader = Leader(HashRank(scenario, fail), Channel(0), lambda: None, lambda kindly: None)
    engine = Engine(leader, scenario.config, time.monotonic)
    engine.submit(next(request for request in iter(scenario.next_request, None) if _servable(engine, request)))
    with pytest.raises(EngineDeadError, match="rank 0: MemoryError: no room"):
        for _ in range(3):
            engine.step()


def test_what_follows_a_collective_that_was_given_up_is_not_believed() -> None:
    """On a device it fails while nobody waits for it."""

    class GivenUp(Channel):
        def check(self) -> None:
            raise RankLostError("a rank does not answer")

    scenario = draw_scenario(5)
    leader = Leader(HashRank(scenario), GivenUp(0), lambda: None, lambda kindly: None)
    engine = Engine(leader, scenario.config, time.monotonic)
    engine.submit(next(request for request in iter(scenario.next_request, None) if _servable(engine, request)))
    with pytest.raises(EngineDeadError, match="a rank does not answer"):
        for _ in range(3):
            assert not engine.step()


def _servable(engine: Engine, request: object) -> bool:
    from flover.request import check_request

    try:
        check_request(request, engine.facts)  # type: ignore[arg-type]
    except RequestError:
        return False
    return True
