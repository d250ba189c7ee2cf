"""Law L13, health truth: 503 within two seconds of a death and within the limit of a stall; never while idle, in a long
iteration, or with a full queue."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any

import httpx
import psutil
import pytest
from support.engines import FakeTime, Machine, begin, kill, until
from support.servers import LONG, Background, ServerProcess, running

from flover.service.replica import STALL_SECONDS
from flover.service.supervisor import Supervisor

pytestmark = pytest.mark.alone


class Watch:
    """Asks `/health` again and again while a block runs."""

    def __init__(self, server: ServerProcess) -> None:
        self.answers: list[tuple[float, int, str]] = []
        """When it was asked, the status, and what the body says."""
        self._url = server.url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as http:
            while not self._stop.is_set():
                asked = time.monotonic()
                answer = http.get("/health")
                self.answers.append((asked, answer.status_code, answer.json()["status"]))
                self._stop.wait(0.01)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def statuses(self) -> set[int]:
        return {status for _, status, _ in self.answers}


def test_never_503_while_idle(start: Callable[..., ServerProcess]) -> None:
    server = start()
    with Watch(server) as watch:
        server.until(lambda: len(watch.answers) > 100)
    assert watch.statuses == {200}


def test_never_503_in_a_long_iteration_or_with_a_full_queue(start: Callable[..., ServerProcess]) -> None:
    server = start("--delay", "1", server={"max_num_queued_reqs": 2, "shutdown_timeout": 0})
    with Watch(server) as watch:
        open_requests = [Background(server, {**LONG, "max_tokens": 4}) for _ in range(2)]
        running(server, 2)
        assert server.post("/v1/completions", LONG).status_code == 429
        assert [each.result().status_code for each in open_requests] == [200, 200]
    assert watch.statuses == {200}
    assert len(watch.answers) > 50


def test_503_within_two_seconds_of_a_death_and_200_when_the_engine_is_there_again(
    start: Callable[..., ServerProcess],
) -> None:
    server = start("--load-delay", "1.5")
    with Watch(server) as watch:
        server.until(lambda: bool(watch.answers))
        killed = time.monotonic()
        server.engine.kill()
        server.until(lambda: watch.answers[-1][1] == 503)
        server.until(lambda: watch.answers[-1][1] == 200)
        there = time.monotonic()
        server.until(lambda: watch.answers[-1][0] > there)
    first_bad = min(asked for asked, status, _ in watch.answers if status == 503)
    assert first_bad - killed < 2
    assert [said for said, _ in groupby(said for _, _, said in watch.answers)] == ["ok", "restarting", "ok"]
    assert 1.5 < there - killed < 15, "while it loads there is no engine"


def test_loading_is_not_ready_and_answers(start: Callable[..., ServerProcess]) -> None:
    server = start("--load-delay", "1", wait=False)
    with Watch(server) as watch:
        server.expect("ready:")
        server.until(lambda: watch.answers[-1][1] == 200)
    said = [said for _, _, said in watch.answers]
    assert said[0] == "loading"
    assert set(said) == {"loading", "ok"}


def stopped(engines: Supervisor) -> bool:
    (replica,) = engines.replicas
    assert replica.client is not None
    return psutil.Process(replica.client.pid).status() == psutil.STATUS_STOPPED


def test_503_within_the_limit_of_a_stall_and_200_after_it() -> None:
    async def scenario() -> None:
        machine, clock = Machine(), FakeTime()
        engines = await begin(machine, clock)
        kill(engines, how=signal.SIGSTOP)
        await until(lambda: stopped(engines))
        for _ in range(10):
            await asyncio.sleep(0)  # what it had sent before is read
        clock.now += STALL_SECONDS - 1
        assert engines.status == "ok"
        clock.now += 2
        assert engines.status == "stalled"
        kill(engines, how=signal.SIGCONT)
        await until(lambda: engines.status == "ok")
        await engines.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_draining_is_not_ready(start: Callable[..., ServerProcess]) -> None:
    server = start("--delay", "0.01")
    whole = Background(server, {**LONG, "max_tokens": 100})
    running(server, 1)
    server.process.send_signal(signal.SIGTERM)
    server.expect("shutting down")
    answer = server.http.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "shutting down"})
    assert whole.result().status_code == 200
