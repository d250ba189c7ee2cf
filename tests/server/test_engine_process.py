"""The engine process and its client: serving, cancelling, death. The process is real, its model a toy."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from support.engines import TOY, make_request, read_tokens, run, toy, until
from support.servers import wait_gone
from toy_engine import EOS, POISON, toy_facts, toy_tokens

from flover.config import EngineConfig
from flover.errors import ConfigError, EngineDeadError, EngineError, ModelError, RequestError
from flover.ipc import wire
from flover.ipc.messages import Loading, Ready, Start
from flover.ipc.spawn import Spawned
from flover.request import FinishReason, Request, SamplingParams
from flover.service import client, process, streams
from flover.service.client import EngineClient
from flover.service.listener import EngineListener

# Serving


def test_tokens_of_many_requests_come_back_to_their_readers() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            assert engine.facts == toy_facts()
            prompts = {f"r{i}": "abcdefgh"[: i + 1] for i in range(8)}
            opened = [engine.submit(make_request(name, prompt, 20)) for name, prompt in prompts.items()]
            for name, tokens in zip(prompts, await asyncio.gather(*map(read_tokens, opened)), strict=True):
                assert tokens == {(name, 0): toy_tokens(list(prompts[name].encode()), 20)}
            assert engine.num_open == 0
            assert engine.stats.finished["length"] == 8

    run(scenario)


def test_one_stream_brings_all_sequences_of_several_requests() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            two = [make_request("a", "xyz", n=2, temperature=1.0), make_request("b", "uvw")]
            tokens = await read_tokens(engine.submit(*two))
            expected = {("a", i): toy_tokens(list(b"xyz"), 5, shift=i) for i in range(2)}
            assert tokens == {**expected, ("b", 0): toy_tokens(list(b"uvw"), 5)}

    run(scenario)


def test_loading_is_reported_before_start_returns() -> None:
    async def scenario() -> None:
        seen: list[tuple[int, int]] = []
        async with toy(listener=EngineListener(on_loading=lambda done, total: seen.append((done, total)))):
            assert seen == [(0, 100), (100, 100)]

    run(scenario)


def test_a_process_that_has_been_told_what_to_load_is_not_told_again() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(["sleep", "60"]) as sleeping:
        spawned = Spawned(sleeping, ours).tell(wire.encode(Start(EngineConfig(model="one-model"))))

        async def scenario() -> None:
            theirs.sendall(wire.encode(Ready(toy_facts())))
            engine = await EngineClient.start(EngineConfig(model="other-model"), command=spawned)
            sleeping.kill()
            await engine.close()

        run(scenario)
        theirs.setblocking(False)
        sent = theirs.recv(2**20)
    assert b"one-model" in sent and b"other-model" not in sent


def test_progress_that_is_not_read_does_not_stop_an_engine() -> None:
    """The server reads when it has made its tokenizer: by then an engine of many tensors would have filled the
    socket."""
    ours, theirs = socket.socketpair()

    def load(config: EngineConfig, progress: Callable[[int, int], None]) -> Any:
        for done in range(20_001):
            progress(done, 20_000)
        raise ModelError("no model")

    theirs.settimeout(20)
    ours.settimeout(20)
    with ours, theirs:
        with pytest.raises(ModelError, match="no model"):
            process.EngineProcess(theirs, load)._load(EngineConfig())
        theirs.shutdown(socket.SHUT_WR)
        decode, messages = wire.from_engine_decoder(), []
        while (body := wire.receive(ours)) is not None:
            messages.append(decode(body))
    assert messages[0] == Loading(0, 20_000) and messages[-1] == Loading(20_000, 20_000) and len(messages) == 26


def test_what_the_engine_refuses_ends_the_stream_with_its_reason() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            with pytest.raises(RequestError) as caught:
                await read_tokens(engine.submit(make_request(prompt="a" * 5000)))
            assert caught.value.param == "prompt"
            assert engine.num_open == 0

    run(scenario)


def test_a_failing_row_ends_with_an_error_and_the_others_go_on() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            bad = Request(id="bad", prompt_ids=[1, POISON], params=SamplingParams(), seed=0)
            good, failed = engine.submit(make_request("good", max_tokens=30)), engine.submit(bad)
            deltas = [delta async for delta in failed]
            assert [(delta.finish_reason, delta.error) for delta in deltas] == [(FinishReason.ERROR, "poisoned")]
            assert len((await read_tokens(good))["good", 0]) == 30

    run(scenario)


def test_end_of_sequence_stops() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            request = Request(id="r", prompt_ids=[97, EOS], params=SamplingParams(temperature=0.0), seed=0)
            deltas = [delta async for delta in engine.submit(request)]
            assert [delta.finish_reason for delta in deltas] == [None, FinishReason.STOP]

    run(scenario)


# Cancelling


def test_cancel_ends_one_sequence_or_all() -> None:
    async def scenario() -> None:
        async with toy("--delay", "0.005") as engine:
            stream = engine.submit(make_request(n=3, temperature=1.0, max_tokens=1000))
            ended: list[int] = []
            engine.cancel("r", 1)
            async for delta in stream:
                if delta.finish_reason is not None:
                    assert delta.finish_reason is FinishReason.ABORT
                    ended.append(delta.index)
                    engine.cancel("r")
            assert ended == [1, 0, 2]
            assert engine.num_open == 0

    run(scenario)


@pytest.mark.parametrize("how", ["close", "forget", "task"])
def test_a_reader_that_goes_away_cancels_in_the_engine(how: str) -> None:
    async def scenario() -> None:
        async with toy("--delay", "0.005") as engine:
            stream = engine.submit(make_request(n=2, temperature=1.0, max_tokens=1000))
            await anext(stream)
            if how == "close":
                stream.close()
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            elif how == "forget":
                del stream
                gc.collect()
            else:
                task = asyncio.create_task(read_tokens(stream))
                del stream
                await asyncio.sleep(0)  # it begins to read
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del task
                gc.collect()
            await until(lambda: engine.stats.finished.get("abort") == 2)
            assert engine.num_open == 0
            assert engine.stats.running == 0

    run(scenario)


def test_a_reader_that_is_too_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_WAITING_NUMBERS", 100)

    async def scenario() -> None:
        async with toy() as engine:
            slow = engine.submit(make_request("slow", max_tokens=1000))
            await until(lambda: engine.stats.finished.get("abort") == 1)
            with pytest.raises(streams.SlowReaderError):
                await read_tokens(slow)
            assert await read_tokens(engine.submit(make_request("next")))

    run(scenario)


# Death


def test_death_ends_every_stream_exactly_once_and_refuses_later_requests() -> None:
    async def scenario() -> None:
        async with toy("--delay", "0.005") as engine:
            opened = [engine.submit(make_request(f"r{i}", max_tokens=1000)) for i in range(5)]
            for stream in opened:
                await anext(stream)
            os.kill(engine.pid, signal.SIGKILL)
            for stream in opened:
                with pytest.raises(EngineDeadError):
                    await read_tokens(stream)
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
            assert not engine.alive
            with pytest.raises(EngineDeadError):
                engine.submit(make_request("late"))
            engine.cancel("r0")  # harmless

    run(scenario)


def test_an_engine_that_breaks_down_while_running_ends_its_streams() -> None:
    async def scenario() -> None:
        async with toy("--die-after", "3") as engine:
            with pytest.raises(EngineDeadError):
                await read_tokens(engine.submit(make_request(max_tokens=1000)))

    run(scenario)


@pytest.mark.parametrize(("kind", "error"), [("model", ModelError), ("config", ConfigError), ("engine", EngineError)])
def test_a_failure_to_load_says_whose_fault_it_is(kind: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        with pytest.raises(error, match="as asked"):
            async with toy("--fail", kind):
                pass

    run(scenario)


def test_a_process_that_ends_without_a_word_fails_the_start() -> None:
    async def scenario() -> None:
        with pytest.raises(EngineError):
            await EngineClient.start(EngineConfig(), command=(sys.executable, "-c", "raise SystemExit(3)"))

    run(scenario)


def test_close_aborts_what_is_open_and_leaves_no_process() -> None:
    async def scenario() -> None:
        async with toy("--delay", "0.005") as engine:
            stream = engine.submit(make_request(max_tokens=1000))
            await anext(stream)
            await engine.close()
            assert [delta async for delta in stream][-1].finish_reason is FinishReason.ABORT
            assert not psutil.pid_exists(engine.pid)
            assert not engine.alive

    run(scenario)


def test_a_start_that_is_given_up_while_loading_leaves_no_process() -> None:
    async def scenario() -> None:
        before = set(psutil.Process().children())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                EngineClient.start(EngineConfig(), command=(sys.executable, TOY, "--load-delay", "60")), 1
            )
        assert set(psutil.Process().children()) == before

    run(scenario)


def test_an_engine_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "STOP_SECONDS", 0.2)

    async def scenario() -> None:
        async with toy() as engine:
            os.kill(engine.pid, signal.SIGSTOP)
            await engine.close()
            assert not psutil.pid_exists(engine.pid)

    run(scenario)


def test_an_idle_engine_is_heard_and_a_frozen_one_is_not() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            for _ in range(2):
                await until(lambda: engine.last_message_age > process.HEARTBEAT_SECONDS / 2)
                await until(lambda: engine.last_message_age < process.HEARTBEAT_SECONDS / 2)
            os.kill(engine.pid, signal.SIGSTOP)
            try:
                await until(lambda: engine.last_message_age > 4 * process.HEARTBEAT_SECONDS)
            finally:
                os.kill(engine.pid, signal.SIGCONT)
            await until(lambda: engine.last_message_age < process.HEARTBEAT_SECONDS / 2)

    run(scenario)


PARENT = """
import asyncio, sys
from flover.config import EngineConfig
from flover.service.client import EngineClient
from flover.service.listener import EngineListener

async def main():
    command = (sys.executable, *sys.argv[1:])
    if "--load-delay" in sys.argv:
        loading = lambda done, total: print("loading", flush=True)
        starting = asyncio.create_task(EngineClient.start(EngineConfig(), EngineListener(on_loading=loading), command))
    else:
        engine = await EngineClient.start(EngineConfig(), command=command)
        print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("options", [(), ("--load-delay", "60")], ids=["idle", "loading"])
def test_the_engine_dies_with_its_server(options: tuple[str, ...]) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, TOY, *options], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline()
    (engine,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_gone(engine)


def test_the_signals_of_a_terminal_do_not_end_the_engine() -> None:
    async def scenario() -> None:
        async with toy() as engine:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(engine.pid, number)
            assert await read_tokens(engine.submit(make_request()))

    run(scenario)
