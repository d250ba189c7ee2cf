"""Engines that die, stand still or do not start again, and what their readers see of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from support.engines import kill, make_request, read_tokens, run, toys, until
from support.servers import LONG, Background, ServerProcess, read_events, running
from toy_engine import DEADLY, toy_tokens

from flover.config import EngineConfig
from flover.errors import ConfigError, EngineDeadError, EngineError, ModelError
from flover.ipc.restarts import MOST_RESTARTS
from flover.request import Request, SamplingParams
from flover.server.run import EXIT_NO_ENGINE
from flover.service import client, supervisor
from flover.service.supervisor import Supervisor


@asynccontextmanager
async def watched(engines: Supervisor) -> AsyncIterator[None]:
    """No process is left when the engines are closed."""
    pids = _pids(engines)
    yield
    pids |= _pids(engines)
    await engines.close()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


async def ten_readers(engines: Supervisor) -> list[asyncio.Task[dict[tuple[str, int], list[int]]]]:
    """Of ten requests r0, r1, … that are under way."""
    reading = [
        asyncio.create_task(read_tokens(engines.submit(make_request(f"r{number}", "abc", 150)))) for number in range(10)
    ]
    await until(lambda: engines.stats.generation_tokens > 200)
    return reading


def _pids(engines: Supervisor) -> set[int]:
    return {replica.client.pid for replica in engines.replicas if replica.client is not None}


def test_streams_go_on_where_a_dead_engine_stopped() -> None:
    async def scenario() -> None:
        async with toys("--delay", "0.002") as engines, watched(engines):
            prompts = {f"r{i}": "abcdefgh"[: i + 1] for i in range(8)}
            streams = {name: engines.submit(make_request(name, prompt, 100)) for name, prompt in prompts.items()}
            reading = {name: asyncio.create_task(read_tokens(stream)) for name, stream in streams.items()}
            await until(lambda: engines.stats.generation_tokens > 200)
            before = engines.stats.generation_tokens
            kill(engines)
            await until(lambda: not engines.alive)
            assert engines.status == "restarting"
            assert engines.stats.generation_tokens >= before
            for name, prompt in prompts.items():
                assert await reading[name] == {(name, 0): toy_tokens(list(prompt.encode()), 100)}
            assert (engines.num_restarts, engines.status) == (1, "ok")
            assert engines.stats.generation_tokens >= before + 8, "counters do not begin again"
            assert engines.stats.running == 0

    run(scenario)


def test_a_platform_without_the_same_bits_continues_after_the_tokens_that_were_delivered(tmp_path: Path) -> None:
    """Each engine process computes other tokens; sequences that have ended or were cancelled stay as they were."""

    async def scenario() -> None:
        async with toys("--delay", "0.002", "--drift", str(tmp_path / "starts")) as engines:
            stream = engines.submit(make_request("r", "abcdefgh", 120, n=3, temperature=1.0, prompt_logprobs=1))
            short = engines.submit(make_request("short", "abcdefgh", 4))
            assert await read_tokens(short) == {("short", 0): toy_tokens(list(b"abcdefgh"), 4, shift=1)}
            deltas = [await anext(stream) for _ in range(60)]
            engines.cancel("r", 1)
            kill(engines)
            deltas += [delta async for delta in stream]
            tokens = {index: [t for d in deltas if d.index == index for t in d.token_ids] for index in range(3)}
            for index in (0, 2):
                first = toy_tokens(list(b"abcdefgh"), 120, shift=1 + index)
                second = toy_tokens(list(b"abcdefgh"), 120, shift=2 + index)
                before = next(i for i in range(120) if tokens[index][i] != first[i])
                assert before >= 10
                assert tokens[index] == first[:before] + second[before:]
            assert len(tokens[1]) < 120
            assert sum(delta.prompt_logprobs is not None for delta in deltas) == 1
            assert engines.num_restarts == 1

    run(scenario)


def test_what_ended_or_was_cancelled_before_a_death_stays_so() -> None:
    async def scenario() -> None:
        async with toys("--delay", "0.002") as engines:
            stream = engines.submit(make_request(n=3, temperature=1.0, max_tokens=200, prompt_logprobs=1))
            deltas = [await anext(stream) for _ in range(6)]
            engines.cancel("r", 1)
            kill(engines)
            await until(lambda: not engines.alive)
            engines.cancel("r", 2)
            deltas += [delta async for delta in stream]
            tokens = {index: [t for d in deltas if d.index == index for t in d.token_ids] for index in range(3)}
            assert tokens[0] == toy_tokens(list(b"abc"), 200)
            for index in (1, 2):
                assert tokens[index] == toy_tokens(list(b"abc"), len(tokens[index]), shift=index)
                assert len(tokens[index]) < 100
            assert sum(delta.prompt_logprobs is not None for delta in deltas) == 1
            assert sorted(str(delta.finish_reason) for delta in deltas if delta.finish_reason) == [
                "abort",
                "abort",
                "length",
            ]

    run(scenario)


def test_a_reader_that_leaves_while_there_is_no_engine_leaves_nothing() -> None:
    async def scenario() -> None:
        async with toys("--load-delay", "0.3") as engines:
            stream = engines.submit(make_request(max_tokens=1000))
            kill(engines)
            await until(lambda: not engines.alive)
            stream.close()
            with pytest.raises(EngineDeadError):
                engines.submit(make_request("late"))
            await until(lambda: engines.alive)
            assert await read_tokens(engines.submit(make_request("next")))
            assert engines.stats.running == 0

    run(scenario)


def test_a_request_that_kills_engines_is_given_up_before_the_server_is() -> None:
    async def scenario() -> None:
        async with toys() as engines:
            deadly = Request(id="deadly", prompt_ids=[1, DEADLY], params=SamplingParams(temperature=0.0), seed=0)
            with pytest.raises(EngineDeadError):
                await read_tokens(engines.submit(deadly))
            await until(lambda: engines.alive)
            assert engines.num_restarts == 2
            assert not engines.given_up.is_set()
            assert await read_tokens(engines.submit(make_request("next")))

    run(scenario)


def test_an_engine_that_dies_too_often_stays_dead() -> None:
    async def scenario() -> None:
        async with toys() as engines:
            for _ in range(MOST_RESTARTS):
                kill(engines)
                await until(lambda: not engines.alive)
                await until(lambda: engines.alive)
            waiting = asyncio.create_task(read_tokens(engines.submit(make_request(max_tokens=1500))))
            kill(engines)
            await asyncio.wait_for(engines.given_up.wait(), 15)
            assert engines.status == "dead"
            with pytest.raises(EngineDeadError):
                await waiting
            with pytest.raises(EngineDeadError):
                engines.submit(make_request("late"))

    run(scenario)


def test_an_engine_that_does_not_start_again_is_given_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys("--once", str(tmp_path / "loaded"), "--delay", "0.01") as engines:
            waiting = asyncio.create_task(read_tokens(engines.submit(make_request(max_tokens=1500))))
            await until(lambda: engines.stats.running == 1)
            kill(engines)
            with pytest.raises(EngineDeadError, match="not restarted: FileExistsError"):
                await waiting
            assert engines.given_up.is_set()
            assert engines.num_restarts == 0

    run(scenario)


def test_engines_that_die_together_have_not_died_of_the_same_requests_twice() -> None:
    async def scenario() -> None:
        async with toys("--delay", "0.002", count=2) as engines, watched(engines):
            reading = await ten_readers(engines)
            for number in range(2):
                kill(engines, number)
            for number, tokens in enumerate(await asyncio.gather(*reading)):
                assert tokens == {(f"r{number}", 0): toy_tokens(list(b"abc"), 150)}

    run(scenario)


@pytest.mark.long
def test_an_engine_that_does_not_get_on_with_loading_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOOK_SECONDS", 0.05)
    late = tmp_path / "late"

    async def scenario() -> None:
        async with toys("--hang-if", str(late), stall_timeout=1.0) as engines, watched(engines):
            late.touch()
            engines.replicas[0].slowest_start = 0.0  # else three times what it took on a busy machine is waited for
            kill(engines)
            await asyncio.wait_for(engines.given_up.wait(), 50)

    run(scenario)


def test_an_engine_that_stands_still_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.05)

    async def scenario() -> None:
        async with toys("--delay", "0.005", stall_timeout=1.0) as engines, watched(engines):
            reading = asyncio.create_task(read_tokens(engines.submit(make_request(max_tokens=100))))
            await until(lambda: engines.stats.generation_tokens > 10)
            kill(engines, how=signal.SIGSTOP)
            assert await reading == {("r", 0): toy_tokens(list(b"abc"), 100)}
            assert engines.num_restarts == 1

    run(scenario)


def test_an_engine_does_not_write_over_the_trace_of_the_one_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with toys(trace=tmp_path / "run.json") as engines:
            for _ in range(2):
                kill(engines)
                await until(lambda: not engines.alive)
                await until(lambda: engines.alive)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["run.1.json", "run.2.json", "run.json"]
        assert len({path.read_text() for path in tmp_path.iterdir()}) == 3

    run(scenario)


@pytest.mark.parametrize(("kind", "error"), [("model", ModelError), ("config", ConfigError), ("engine", EngineError)])
def test_engines_that_do_not_load_at_first_fail_the_start(kind: str, error: type[Exception]) -> None:
    async def scenario() -> None:
        before = set(psutil.Process().children())
        with pytest.raises(error, match="as asked"):
            async with toys("--fail", kind, count=2):
                pass
        assert set(psutil.Process().children()) == before

    run(scenario)


def test_of_two_engines_the_other_goes_on(record_property: Callable[[str, object], None]) -> None:
    async def scenario() -> None:
        async with toys("--delay", "0.002", count=2) as engines, watched(engines):
            reading = await ten_readers(engines)
            assert [each.client.num_open for each in engines.replicas if each.client is not None] == [5, 5]
            killed = time.monotonic()
            kill(engines, 1)
            await until(lambda: engines.replicas[1].client is None)
            assert engines.status == "ok"
            assert await read_tokens(engines.submit(make_request("new", "xyz")))
            record_property("first answer after the death of one of two engines, s", time.monotonic() - killed)
            for number, tokens in enumerate(await asyncio.gather(*reading)):
                assert tokens == {(f"r{number}", 0): toy_tokens(list(b"abc"), 150)}
            await until(lambda: engines.replicas[1].client is not None)

    run(scenario)


def test_prompts_that_begin_alike_go_to_one_engine() -> None:
    async def scenario() -> None:
        async with toys(count=2) as engines:
            both = [engines.submit(make_request(letter, letter * 64, 3)) for letter in "ab"]
            for stream in both:
                await read_tokens(stream)
            assert [engines.replicas[number].stats.generation_tokens for number in range(2)] == [3, 3]
            for turn in range(1, 4):
                await read_tokens(engines.submit(make_request(f"b{turn}", "b" * (64 + turn), 3)))
            assert [engines.replicas[number].stats.generation_tokens for number in range(2)] == [3, 12]
            assert engines.replicas[1].stats.cached_tokens == 3 * 64

    run(scenario)


def test_a_process_that_ends_without_a_word_fails_the_start() -> None:
    async def scenario() -> None:
        with pytest.raises(EngineError):
            await Supervisor.start(EngineConfig(), command=(sys.executable, "-c", "raise SystemExit(3)"))

    run(scenario)


def test_the_server_goes_on_over_the_death_of_its_engine(
    start: Callable[..., ServerProcess], record_property: Callable[[str, object], None]
) -> None:
    server = start("--delay", "0.005", "--load-delay", "0.5")
    streams = [Background(server, {**LONG, "max_tokens": 300, "stream": True}) for _ in range(5)]
    whole = Background(server, {**LONG, "max_tokens": 300})
    running(server, 6)
    killed = time.monotonic()
    server.engine.kill()
    server.until(lambda: server.http.get("/health").json() == {"status": "restarting"})
    refused = server.post("/v1/completions", LONG)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"] == "the engine has died and is being started again"
    server.until(lambda: server.http.get("/health").json() == {"status": "ok"}, 20)
    record_property("healthy after the death of the only engine (loading takes 0.5), s", time.monotonic() - killed)
    for stream in streams:
        events = read_events(stream.result().text)
        assert events[-1] == "[DONE]"
        assert "".join(event["choices"][0]["text"] for event in events[:-1] if event["choices"]) == "abc" * 100
    assert whole.result().json()["choices"][0]["text"] == "abc" * 100
    assert server.metric("engine_restarts_total") == 1
    assert server.stop() == 0


def test_a_server_whose_engine_dies_too_often_ends(start: Callable[..., ServerProcess]) -> None:
    server = start()
    for _ in range(MOST_RESTARTS):
        server.engine.kill()
        server.until(lambda: server.http.get("/health").json() != {"status": "ok"})
        server.until(lambda: server.http.get("/health").json() == {"status": "ok"})
    server.engine.kill()
    assert server.process.wait(20) == EXIT_NO_ENGINE
