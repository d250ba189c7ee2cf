"""One engine of a server over all its restarts: starts it, restarts it when it has died, counts on over its lives."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from flover.config import EngineConfig
from flover.engine.stats import EngineStats
from flover.errors import EngineDeadError, FloverError, OutOfResourcesError
from flover.ipc.restarts import Restarts
from flover.ipc.spawn import DescriptorReserve, Spawned, Spawner, missing_resource
from flover.observe.timeline import Iteration
from flover.request import ModelFacts
from flover.service.client import EngineClient
from flover.service.in_flight import InFlightRequest
from flover.service.listener import EngineListener
from flover.structured_outputs import Vocabulary

STALL_SECONDS = 60.0
"""An engine that sends nothing for so long is not healthy; iterations are measured in milliseconds."""
LOADING_TIMES = 3.0
"""A restarted engine may send nothing for so many times the slowest start before it counts as stalled: between two
messages a loading engine reads, quantizes and allocates."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Launch:
    """How the engines of one server are started. `clock` and `sleep` count the same seconds."""

    config: EngineConfig
    command: Sequence[str]
    stall_timeout: float
    spawner: Spawner
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    reserve: DescriptorReserve


class ReplicaOwner(Protocol):
    """What a replica calls, in its event loop."""

    def on_stats(self, replica: int, stats: EngineStats) -> None: ...
    def on_iteration(self, replica: int, iteration: Iteration) -> None: ...
    def on_death(self, replica: int, requests: Sequence[InFlightRequest], reason: FloverError) -> None: ...
    def on_restart_end(self) -> None: ...


class Replica:
    """One engine with the whole model, `number` counting from 0."""

    def __init__(self, number: int, launch: Launch, owner: ReplicaOwner) -> None:
        self.number = number
        self.client: EngineClient | None = None
        """The running engine; None while it loads, and when it is dead."""
        self.restarting: asyncio.Task[None] | None = None
        self.facts: ModelFacts | None = None
        """What the newest engine said about its model."""
        self.num_restarts = 0
        self.last_failure = (-math.inf, "")
        """When an engine last died or did not start, and why."""
        self.slowest_start = 0.0
        """Seconds from the start of a process to a loaded model."""
        self._launch = launch
        self._owner = owner
        self._restarts = Restarts()
        self._past = EngineStats()  # counters of the engines before
        self._num_started = 0
        self._watched = False
        self._vocabulary: Vocabulary | None = None
        self._closing = False

    @property
    def status(self) -> str:
        """ "ok", "stalled", "restarting", or "dead" for good. A loading engine is never stalled."""
        if self.client is None:
            return "dead" if self.restarting is None else "restarting"
        return "stalled" if self.client.last_message_age > STALL_SECONDS else "ok"

    @property
    def stats(self) -> EngineStats:
        """The newest snapshot; counters go on over restarts."""
        return self._past if self.client is None else self._past.plus(self.client.stats)

    def watch(self, on: bool) -> None:
        """Whether the engine, and those that follow it, are to describe their iterations."""
        self._watched = on
        if self.client is not None:
            self.client.watch(on)

    def prepare(self, vocabulary: Vocabulary) -> None:
        """Have the engine, and those that follow it, read the vocabulary of structured outputs before any request."""
        self._vocabulary = vocabulary
        if self.client is not None:
            self.client.prepare(vocabulary)

    async def start(self, on_loading: Callable[..., None], spawned: Spawned | None = None) -> None:
        """Start an engine, or take the process of one, and wait until it has loaded. Raises `ConfigError`,
        `ModelError` or `EngineError`."""
        launch = self._launch
        started = launch.clock()
        if spawned is None:
            with launch.reserve.lent():
                spawned = launch.spawner(launch.command)
        listener = EngineListener(
            on_loading=on_loading,
            on_stats=partial(self._owner.on_stats, self.number),
            on_iteration=partial(self._owner.on_iteration, self.number),
            on_death=self._died,
        )
        client = await EngineClient.start(self._next_config(), listener, spawned, self._silence(), launch.clock)
        if not client.alive:  # it died after it was ready, before this task went on
            await client.close()
            raise EngineDeadError("the engine died as soon as it was ready")
        self.client = client
        self.facts = client.facts
        self._num_started += 1
        self.slowest_start = max(self.slowest_start, launch.clock() - started)
        if self._watched:
            client.watch(True)
        if self._vocabulary is not None:
            client.prepare(self._vocabulary)

    def stop(self) -> None:
        """Restart no more: `close` follows."""
        self._closing = True
        if self.restarting is not None:
            self.restarting.cancel()

    async def close(self) -> None:
        """After `stop`: cancel what is open, stop the engine and wait until its process is gone."""
        if self.restarting is not None:
            await asyncio.gather(self.restarting, return_exceptions=True)
        if self.client is not None:
            await self.client.close()

    def _silence(self) -> float:
        """Seconds without a message after which a loading engine is given up; 0: never. The first one may have to
        download its model, during which it sends nothing."""
        if self._num_started == 0 or self._launch.stall_timeout <= 0:
            return 0.0
        return self._launch.stall_timeout + LOADING_TIMES * self.slowest_start

    def _next_config(self) -> EngineConfig:
        """For the next engine: it must not overwrite the trace of the one before."""
        config = self._launch.config
        if config.trace is None or self._num_started == 0:
            return config
        path = Path(config.trace)
        return dataclasses.replace(config, trace=str(path.with_stem(f"{path.stem}.{self._num_started}")))

    def _died(self, requests: Sequence[InFlightRequest], reason: FloverError) -> None:
        client, self.client = self.client, None
        if client is None:
            return  # it was loading: `start` raises
        self._past = self._past.plus(client.stats.past())
        if not self._closing:
            self._failed(str(reason))
            logger.error("engine %d has died with %d requests open: %s", self.number, len(requests), reason)
            client.kill()  # its process may be stuck, or still run
            self.restarting = asyncio.create_task(self._restart(client), name="restart")
        self._owner.on_death(self.number, requests, reason)

    async def _restart(self, dead: EngineClient) -> None:
        clock, restarts = self._launch.clock, self._restarts
        died = clock()
        try:
            await dead.close()
            while (pause := restarts.pause(clock())) is not None:
                if pause > 0:
                    logger.warning("engine %d is started again in %.0f s", self.number, pause)
                    await self._launch.sleep(pause)
                if await self._try():
                    self.num_restarts += 1
                    logger.warning("engine %d is there again after %.1f s", self.number, clock() - died)
                    return
            logger.error("engine %d is not started again: %s", self.number, self.last_failure[1])
        finally:
            self.restarting = None
            self._owner.on_restart_end()

    async def _try(self) -> bool:
        """Start one engine. What the machine has no resources for is no failure of the engine."""
        missing: str | None = None
        try:
            await self.start(lambda *progress: None)
        except OutOfResourcesError as error:
            reason = missing = str(error)
        except FloverError as error:
            reason = str(error)
        except Exception as error:
            missing = missing_resource(error)
            reason = missing or f"{type(error).__name__}: {error}"
            if missing is None:
                logger.exception("engine %d does not start again", self.number)
        else:
            self._restarts.attempted(self._launch.clock())
            return True
        self._failed(reason)
        logger.error("engine %d does not start again: %s", self.number, reason)
        (self._restarts.attempted if missing is None else self._restarts.refused)(self._launch.clock())
        return False

    def _failed(self, reason: str) -> None:
        self.last_failure = (self._launch.clock(), reason)
