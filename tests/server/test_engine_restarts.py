"""Engines that cannot be started again at once, and what clients and operators read about why one has ended."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.engines import TOY, FakeTime, Machine, begin, kill, make_request, read_tokens, run, toys, until
from toy_engine import toy_tokens

from flover.config import EngineConfig
from flover.errors import EngineDeadError, EngineError, OutOfResourcesError
from flover.ipc import spawn
from flover.ipc.exits import describe_exit
from flover.ipc.restarts import MOST_RESTARTS, PATIENCE_SECONDS
from flover.ipc.spawn import RESERVED_DESCRIPTORS, DescriptorReserve
from flover.service import client, supervisor
from flover.service.client import EngineClient
from flover.service.supervisor import Supervisor


@pytest.mark.parametrize("count", [1, 2])
def test_a_machine_that_refuses_for_a_while_costs_no_restart(count: int) -> None:
    async def scenario() -> None:
        machine, clock = Machine(), FakeTime()
        engines = await begin(machine, clock, count)
        reading = [
            asyncio.create_task(read_tokens(engines.submit(make_request(f"r{i}", "abc", 200)))) for i in range(4)
        ]
        await until(lambda: engines.stats.generation_tokens > 20)
        machine.refusals = 5 * count
        for number in range(count):
            kill(engines, number)
        for i, tokens in enumerate(await asyncio.gather(*reading)):
            assert tokens == {(f"r{i}", 0): toy_tokens(list(b"abc"), 200)}
        await until(lambda: engines.num_restarts == count)
        assert machine.refused == machine.refusals
        assert max(clock.pauses) > 1, "pauses grow"
        assert all(pause <= 30 for pause in clock.pauses)
        await engines.close()

    run(scenario)


def test_a_machine_that_refuses_for_too_long_is_given_up_with_the_reason() -> None:
    async def scenario() -> None:
        machine, clock = Machine(), FakeTime()
        engines = await begin(machine, clock)
        reading = asyncio.create_task(read_tokens(engines.submit(make_request(max_tokens=1500))))
        await until(lambda: engines.stats.running == 1)
        machine.refusals = 10**6
        kill(engines)
        with pytest.raises(EngineDeadError, match=r"not restarted: .*none is left"):
            await reading
        assert engines.given_up.is_set()
        assert PATIENCE_SECONDS <= sum(clock.pauses) <= PATIENCE_SECONDS + 31
        assert engines.status == "dead"
        await engines.close()

    run(scenario)


def test_a_server_that_ends_does_not_wait_for_the_pause_before_a_restart() -> None:
    async def scenario() -> None:
        before = set(psutil.Process().children())
        machine = Machine()

        async def pause(seconds: float) -> None:
            await asyncio.Event().wait()

        engines = await Supervisor.start(EngineConfig(), command=(sys.executable, TOY), spawner=machine, sleep=pause)
        machine.refusals = 10**6
        kill(engines)
        await until(lambda: machine.refused >= 1)
        await engines.close()
        assert set(psutil.Process().children()) <= before

    run(scenario)


@pytest.fixture
def full_table() -> Iterator[list[int]]:
    """This process may open no further file; closing one of these makes room for one."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 10
    taken: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield taken
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


def test_a_failed_spawn_leaves_no_descriptor_and_says_what_is_missing(full_table: list[int]) -> None:
    for _ in range(5):
        with pytest.raises(OutOfResourcesError, match="ulimit -n"):
            spawn.spawn((sys.executable, "-c", ""))
        os.close(full_table.pop())
        room = [os.open(os.devnull, os.O_RDONLY)]  # what a failed attempt has left open would leave no room for it
        full_table += room
        os.close(full_table.pop())


def test_a_reserve_has_room_for_a_process_when_nothing_else_has(full_table: list[int]) -> None:
    for _ in range(RESERVED_DESCRIPTORS):
        os.close(full_table.pop())
    reserve = DescriptorReserve()
    with pytest.raises(OutOfResourcesError):
        spawn.spawn((sys.executable, "-c", ""))
    started = []
    for _ in range(MOST_RESTARTS):
        with reserve.lent():
            started.append(spawn.spawn((sys.executable, "-c", "")))
    for each in started:
        each.end()
    reserve.close()


def test_a_loading_engine_has_time_of_its_own() -> None:
    """Its silence is measured against what loading took before, not only against the silence of one that serves."""

    async def scenario() -> None:
        async with toys("--load-delay", "1.5", stall_timeout=1.0) as engines:
            assert engines.replicas[0].slowest_start >= 1.5
            kill(engines)
            await until(lambda: not engines.alive)
            assert engines.status == "restarting"
            await until(lambda: engines.alive)
            assert engines.num_restarts == 1

    run(scenario)


# Why an engine has ended


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT])
def test_signals_in_words(number: signal.Signals) -> None:
    assert describe_exit(-number).startswith(f"was killed by signal {number.value} ({number.name}): ")


def test_exit_codes_in_words() -> None:
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-63) == "was killed by signal 63"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("raise SystemExit(3)", r"ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", r"was killed by signal 9 \(SIGKILL\): .*memory"),
        ("import os; os.abort()", r"was killed by signal 6 \(SIGABRT\)"),
    ],
)
def test_a_process_that_ends_while_it_loads_says_how(end: str, words: str) -> None:
    async def scenario() -> None:
        with pytest.raises(EngineError, match=words):
            await EngineClient.start(EngineConfig(), command=(sys.executable, "-c", end))

    run(scenario)


@pytest.mark.parametrize(
    ("options", "how", "words"),
    [
        ((), signal.SIGKILL, r"signal 9 \(SIGKILL\): .*memory"),
        (("--die-after", "3"), None, "exit code 7"),
    ],
)
def test_readers_of_an_engine_that_dies_are_told_how(
    options: tuple[str, ...], how: signal.Signals | None, words: str
) -> None:
    async def scenario() -> None:
        config, command = EngineConfig(), (sys.executable, TOY, "--delay", "0.01", *options)
        engine = await EngineClient.start(config, command=command)
        reading = asyncio.create_task(read_tokens(engine.submit(make_request(max_tokens=500))))
        await until(lambda: engine.stats.generation_tokens > 1)
        if how is not None:
            os.kill(engine.pid, how)
        with pytest.raises(EngineDeadError, match=words):
            await reading
        await engine.close()

    run(scenario)


def test_an_engine_that_was_killed_for_its_silence_is_said_to_have_been_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.05)

    async def scenario() -> None:
        async with toys(stall_timeout=1.0) as engines:
            kill(engines, how=signal.SIGSTOP)
            await until(lambda: engines.num_restarts == 1)
            assert "had sent nothing for 1 s and was killed" in engines.last_failure

    run(scenario)
    assert "had sent nothing for 1 s and was killed" in caplog.text


def test_a_model_that_stops_loading_after_it_has_loaded_once_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys("--fail-if", str(tmp_path / "broken"), sleep=lambda seconds: asyncio.sleep(0)) as engines:
            reading = asyncio.create_task(read_tokens(engines.submit(make_request(max_tokens=2000))))
            await until(lambda: engines.stats.running == 1)
            (tmp_path / "broken").touch()
            kill(engines)
            with pytest.raises(EngineDeadError, match="not restarted: the model is gone"):
                await reading

    run(scenario)


def test_an_engine_whose_ranks_cannot_be_started_says_that_the_machine_refused() -> None:
    async def scenario() -> None:
        with pytest.raises(OutOfResourcesError, match="as asked"):
            await EngineClient.start(EngineConfig(), command=(sys.executable, TOY, "--fail", "resources"))

    run(scenario)


def test_a_silent_engine_is_noticed_while_it_loads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LOOK_SECONDS", 0.05)

    async def scenario() -> None:
        with pytest.raises(EngineError, match="sent nothing for"):
            await EngineClient.start(EngineConfig(), command=(sys.executable, TOY, "--load-delay", "60"), silence=0.3)

    run(scenario)
