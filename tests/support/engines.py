"""Toy engines in processes of their own, with their client or supervisor, and a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from flover.config import EngineConfig
from flover.errors import OutOfResourcesError
from flover.ipc import spawn
from flover.ipc.spawn import Spawned
from flover.request import Request, SamplingParams
from flover.service import streams
from flover.service.client import EngineClient
from flover.service.listener import EngineListener, SupervisorListener
from flover.service.supervisor import Supervisor

TOY = str(Path(__file__).parents[1] / "server" / "toy_engine.py")


def make_request(name: str = "r", prompt: str = "abc", max_tokens: int = 5, **params: object) -> Request:
    sampling = SamplingParams(**{"temperature": 0.0, "max_tokens": max_tokens, **params})  # type: ignore[arg-type]
    return Request(id=name, prompt_ids=list(prompt.encode()), params=sampling, seed=0)


@asynccontextmanager
async def toy(*options: str, before: str = "", listener: EngineListener | None = None) -> AsyncIterator[EngineClient]:
    """`before` is code that runs the toy."""
    command = (sys.executable, *(("-c", before) if before else ()), TOY, *options)
    engine = await EngineClient.start(EngineConfig(), listener, command)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def toys(
    *options: str,
    count: int = 1,
    stall_timeout: float = 0.0,
    trace: Path | None = None,
    listener: SupervisorListener | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Supervisor]:
    config = EngineConfig(data_parallel_size=count, trace=None if trace is None else str(trace))
    command = (sys.executable, TOY, *options)
    engines = await Supervisor.start(config, listener, command=command, stall_timeout=stall_timeout, sleep=sleep)
    try:
        yield engines
    finally:
        await engines.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]


async def read_tokens(stream: streams.DeltaStream) -> dict[tuple[str, int], list[int]]:
    tokens: dict[tuple[str, int], list[int]] = {}
    async for delta in stream:
        tokens.setdefault((delta.request_id, delta.index), []).extend(delta.token_ids)
    return tokens


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


def kill(engines: Supervisor, number: int = 0, how: signal.Signals = signal.SIGKILL) -> None:
    engine = engines.replicas[number].client
    assert engine is not None
    os.kill(engine.pid, how)


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)
        await asyncio.sleep(0)


class Machine:
    """Starts processes, unless it has nothing left to start one with."""

    def __init__(self) -> None:
        self.refusals = 0
        self.refused = 0

    def __call__(self, command: Sequence[str]) -> Spawned:
        if self.refused < self.refusals:
            self.refused += 1
            raise OutOfResourcesError("the process of an engine cannot be started: none is left")
        return spawn.spawn(command)


async def begin(machine: Machine, clock: FakeTime, count: int = 1, *options: str) -> Supervisor:
    config = EngineConfig(data_parallel_size=count)
    command = (sys.executable, TOY, "--delay", "0.002", *options)
    return await Supervisor.start(config, command=command, spawner=machine, clock=clock, sleep=clock.sleep)
