"""The feed of `/live`: what comes, when, to how many, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import msgspec
import pytest
from support.engines import make_request, read_tokens, run, toy, toys
from support.servers import ServerProcess

from flover.engine.stats import EngineStats
from flover.observe.timeline import Iteration
from flover.server import live
from flover.server.errors import HttpError
from flover.server.live import Live, Subscriber
from flover.service.listener import EngineListener, SupervisorListener

Event = dict[str, Any]


class Stream:
    """Events of one subscriber, read in a thread as they come."""

    def __init__(self, server: ServerProcess, headers: dict[str, str] | None = None) -> None:
        self.events: list[Event] = []
        self.times: list[float] = []
        self.ended = threading.Event()
        self._client = httpx.Client(base_url=server.url, timeout=10, headers=headers)
        self._context = self._client.stream("GET", "/live")
        self.answer = self._context.__enter__()
        self._leaving = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self.answer.iter_lines():
                if line == "data: [DONE]":
                    self.ended.set()
                elif line:
                    assert line.startswith("data: ")
                    self.times.append(time.monotonic())
                    self.events.append(json.loads(line[6:]))
        except (httpx.HTTPError, httpx.StreamError, RuntimeError):
            assert self._leaving

    @property
    def iterations(self) -> list[Event]:
        return [one for event in self.events[1:] for one in event["iterations"]]

    def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.01)

    def leave(self) -> None:
        self._leaving = True
        self._context.__exit__(None, None, None)
        self._client.close()


@contextmanager
def watching(server: ServerProcess, **arguments: Any) -> Iterator[Stream]:
    stream = Stream(server, **arguments)
    try:
        stream.until(lambda: len(stream.events) >= 2)
        yield stream
    finally:
        stream.leave()


def generate(server: ServerProcess, max_tokens: int = 30, prompt: str = "abc") -> None:
    server.post("/v1/completions", {"prompt": prompt, "max_tokens": max_tokens}).raise_for_status()


def test_the_form_of_the_feed(server: ServerProcess) -> None:
    with watching(server) as stream:
        assert stream.answer.headers["content-type"].startswith("text/event-stream")
        assert stream.events[0] == {
            "facts": {
                "model": "toy",
                "max_num_seqs": 64,
                "pages_total": 256,
                "page_size": 16,
                "engine": 0,
                "engines": 1,
            }
        }
        generate(server)
        stream.until(lambda: len(stream.iterations) >= 30)
        for event in stream.events[1:]:
            assert event.keys() == {"iterations", "stats", "dropped"}
            assert event["dropped"] == 0
            msgspec.convert(event["stats"], EngineStats)
        seen = [msgspec.convert(one, Iteration) for one in stream.iterations]
    steps = [one.step for one in seen]
    assert steps == list(range(steps[0], steps[0] + 30)), "nothing is lost"
    first, *_, last = seen
    ((row, number, request_id),) = first.entered
    assert (row, first.rows, first.chunks, first.tokens) == (0, [number], [(0, 3)], 1)
    assert request_id.startswith("cmpl-")
    assert (last.left, last.generating, last.pages_freed) == ([(number, "length")], [0], 2)
    assert first.milliseconds >= 2, "the toy takes as long"
    assert all(one.started < two.started for one, two in pairwise(seen))


def test_events_are_batched(server: ServerProcess) -> None:
    with watching(server) as stream:
        generate(server, 300)
        stream.until(lambda: len(stream.iterations) >= 300)
        gaps = [two - one for one, two in pairwise(stream.times[1:])]
    assert sum(gaps) / len(gaps) > 0.9 * live.EVENT_SECONDS
    assert max(len(event["iterations"]) for event in stream.events[1:]) > 3


def test_several_watch_and_the_last_one_turns_it_off(server: ServerProcess) -> None:
    with watching(server) as one:
        with watching(server) as two:
            generate(server)
            for stream in (one, two):
                stream.until(lambda stream=stream: len(stream.iterations) >= 30)
        generate(server)
        one.until(lambda: len(one.iterations) >= 60)
        assert [entry["step"] for entry in one.iterations[:30]] == [entry["step"] for entry in two.iterations]
    generate(server)
    with watching(server) as late:
        generate(server)
        late.until(lambda: len(late.iterations) >= 30)
        told = len(late.events)
        late.until(lambda: len(late.events) > told)
        assert len(late.iterations) == 30, "what nobody watched is not told later"


def test_an_idle_engine_still_tells_its_counters(server: ServerProcess) -> None:
    with watching(server) as stream:
        stream.until(lambda: len(stream.events) >= 4)
        assert stream.iterations == []
        assert stream.events[-1]["stats"]["running"] == 0


def test_the_feed_wants_the_key(start: Callable[..., ServerProcess]) -> None:
    server = start(server={"api_key": ["secret"]})
    assert server.http.get("/live").status_code == 401
    with watching(server, headers={"Authorization": "Bearer secret"}) as stream:
        assert "facts" in stream.events[0]


def test_before_the_model_is_loaded_there_is_nothing_to_watch(start: Callable[..., ServerProcess]) -> None:
    server = start("--load-delay", "30", wait=False)
    answer = server.http.get("/live")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "service_unavailable")


def test_the_end_of_the_server_ends_the_feed(start: Callable[..., ServerProcess]) -> None:
    server = start()
    with watching(server) as stream:
        assert server.stop() == 0, "nobody waits for subscribers"
        assert stream.ended.wait(15)


def test_the_death_of_the_engine_is_told(start: Callable[..., ServerProcess]) -> None:
    server = start("--die-after", "3")
    with watching(server) as stream:
        server.post("/v1/completions", {"prompt": "abc", "max_tokens": 30})
        stream.until(lambda: "error" in stream.events[-1])
        assert stream.events[-1]["error"]["type"] == "service_unavailable"


def test_more_subscribers_than_may_be_are_refused(start: Callable[..., ServerProcess]) -> None:
    server = start()
    streams = [Stream(server) for _ in range(live.MAX_SUBSCRIBERS)]
    try:
        for stream in streams:
            stream.until(lambda stream=stream: bool(stream.events))
        assert server.http.get("/live").status_code == 429
    finally:
        for stream in streams:
            stream.leave()
    server.until(lambda: _may_watch(server))


def _may_watch(server: ServerProcess) -> bool:
    with server.http.stream("GET", "/live") as answer:
        return answer.status_code == 200


def test_a_subscriber_that_does_not_read_costs_the_others_nothing(
    start: Callable[..., ServerProcess],
) -> None:
    """Its socket fills, then its queue; generation goes on."""
    server = start()
    with server.http.stream("GET", "/live") as lazy:
        assert lazy.status_code == 200
        with watching(server) as stream:
            for _ in range(3):
                generate(server, 1500)
            stream.until(lambda: len(stream.iterations) >= 4500)
            assert all(event["dropped"] == 0 for event in stream.events[1:])


def some_iteration(step: int) -> Iteration:
    return Iteration(
        step=step,
        started=0.0,
        milliseconds=1.0,
        first=0,
        rows=[0],
        generating=[0],
        chunks=[],
        entered=[],
        left=[],
        moves=[],
        waiting=0,
        pages_used=1,
        pages_cached=0,
        pages_total=9,
        pages_freed=0,
        tokens=1,
    )


def test_the_oldest_give_way_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_WAITING_ITERATIONS", 3)
    subscriber = Subscriber(0)
    for step in range(5):
        subscriber.put(some_iteration(step))
    iterations, dropped = subscriber.take()
    assert ([one.step for one in iterations], dropped) == ([2, 3, 4], 2)
    subscriber.put(some_iteration(5))
    iterations, dropped = subscriber.take()
    assert ([one.step for one in iterations], dropped) == ([5], 0)


def test_the_engine_describes_iterations_only_while_it_is_watched() -> None:
    async def scenario() -> None:
        seen: list[Iteration] = []
        async with toy(listener=EngineListener(on_iteration=seen.append)) as engine:

            async def generate() -> int:
                seen.clear()
                async for _ in engine.submit(make_request(max_tokens=5)):
                    pass
                return len(seen)

            assert await generate() == 0
            engine.watch(True)
            assert await generate() == 5
            engine.watch(True)
            assert await generate() == 5
            engine.watch(False)
            assert await generate() == 0

    run(scenario)


def test_watching_needs_an_engine() -> None:
    with pytest.raises(HttpError) as refused:
        Live(4).enter(0)
    assert refused.value.status == 503


def test_a_subscriber_sees_at_once_that_the_server_ends() -> None:
    async def scenario() -> None:
        async with toys() as engines:
            hub = Live(4)
            hub.open(engines)
            events: AsyncIterator[dict[str, Any]] = hub.events(hub.enter(0))
            assert "facts" in await anext(events)
            hub.close()
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(events), 15)

    run(scenario)


def test_of_several_engines_one_is_watched() -> None:
    async def scenario() -> None:
        hub = Live(4)
        async with toys("--delay", "0.002", count=2, listener=SupervisorListener(on_iteration=hub.put)) as engines:
            hub.open(engines)
            both = [hub.enter(number) for number in range(2)]
            streams = [engines.submit(make_request(f"r{number}", "abc"[number:], 30)) for number in range(2)]
            for stream in streams:
                await read_tokens(stream)
            for subscriber in both:
                iterations, _ = subscriber.take()
                assert sum(iteration.tokens for iteration in iterations) == 30
            hub.leave(both[0])
            streams = [engines.submit(make_request(f"s{number}", "abc"[number:], 5)) for number in range(2)]
            for stream in streams:
                await read_tokens(stream)
            assert (both[0].take(), bool(both[1].take()[0])) == (([], 0), True)
            with pytest.raises(HttpError) as refused:
                hub.enter(2)
            assert (refused.value.status, refused.value.message) == (404, "there is no engine 2; there are 2")

    run(scenario)
