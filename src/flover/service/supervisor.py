"""Keeps the engines of one door alive: routes requests among them, begins a dead one again, and lets what was open in
it begin again with the next.

Belongs to one asyncio loop, as `EngineClient` does. Knows engines by their clients only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from flover.config import EngineConfig
from flover.engine.stats import EngineStats
from flover.errors import EngineDeadError, FloverError, OutOfResourcesError
from flover.ipc.restarts import Restarts
from flover.ipc.spawn import ENGINE_COMMAND, DescriptorReserve, Spawned, Spawner, missing_resource, spawn
from flover.observe.timeline import Iteration
from flover.request import ModelFacts, Request
from flover.service.client import EngineClient
from flover.service.in_flight import Standing, open_stream
from flover.service.replica import Replica
from flover.service.router import PrefixRouter
from flover.service.streams import DeltaStream, Mailbox

LOOK_SECONDS = 1.0
"""So often the supervisor looks for engines that say nothing."""
SETTLE_SECONDS = 0.05
"""From a death to the next engine for what was open."""

logger = logging.getLogger(__name__)


class Supervisor:
    """Engines side by side, `config.data_parallel_size` of them, each with the whole model. Made by `start`."""

    def __init__(
        self,
        config: EngineConfig,
        command: Sequence[str],
        stall_timeout: float,
        spawner: Spawner,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.on_stats: Callable[[int, EngineStats], None] = lambda number, stats: None
        """Called with the number of an engine and every snapshot that comes from it."""
        self.on_iteration: Callable[[int, Iteration], None] = lambda number, iteration: None
        """Called with the number of an engine and every iteration it tells of (`watch`)."""
        self.given_up = asyncio.Event()
        """Set when no engine is left and none will be begun again."""
        self.num_restarts = 0
        self.last_failure = ""
        """Why an engine has died or did not start, the newest such reason."""
        self.replicas = [Replica(number, Restarts()) for number in range(config.data_parallel_size)]
        self._config = config
        self._command = command
        self._stall_timeout = stall_timeout
        self._spawner = spawner
        self._clock = clock
        self._sleep = sleep
        self._reserve = DescriptorReserve()
        self._loop = asyncio.get_running_loop()
        self._router = PrefixRouter(len(self.replicas))
        self._held: list[Standing] = []  # open requests that no engine has
        self._watched: set[int] = set()
        self._closing = False
        self._facts: ModelFacts | None = None
        self._looking: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        on_loading: Callable[[int, int], None] = lambda done, total: None,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        spawned: Spawned | None = None,
        stall_timeout: float = 0.0,
        spawner: Spawner = spawn,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> Supervisor:
        """Start all engines and wait until they have loaded; `spawned` is the first one's process, if it is there
        already. An engine without news for `stall_timeout` seconds is killed and begun again (0: never). `spawner`
        starts processes; `clock` and `sleep` count the same seconds.

        `on_loading(done, total)` is told bytes of weights, of all engines together. Raises `ConfigError`, `ModelError`
        or `EngineError` as the first engine that fails does.
        """
        supervisor = cls(config, command, stall_timeout, spawner, clock, sleep)
        try:
            await supervisor._start_all(on_loading, spawned)
        except BaseException as error:
            await supervisor.close()
            raise error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error from None
        supervisor._looking = asyncio.create_task(supervisor._look(), name="supervisor")
        return supervisor

    async def _start_all(self, on_loading: Callable[[int, int], None], spawned: Spawned | None) -> None:
        loaded = [(0, 0) for _ in self.replicas]

        def note(number: int, done: int, total: int) -> None:
            loaded[number] = done, total
            on_loading(sum(each[0] for each in loaded), sum(each[1] for each in loaded))

        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                process = spawned if replica.number == 0 else None
                group.create_task(self._begin(replica, partial(note, replica.number), process))

    # What the door asks for

    @property
    def facts(self) -> ModelFacts:
        """What the engines said about the model; the smallest pool that one of them has."""
        assert self._facts is not None
        return self._facts

    @property
    def status(self) -> str:
        """That of the healthiest engine: "ok", "stalled", "restarting" or "dead"."""
        states = {replica.status for replica in self.replicas}
        return next(state for state in ("ok", "stalled", "restarting", "dead") if state in states)

    @property
    def alive(self) -> bool:
        """Whether an engine takes requests. A stuck one does."""
        return any(replica.client is not None for replica in self.replicas)

    @property
    def stats(self) -> EngineStats:
        """All engines as one; counters go on over restarts."""
        total = EngineStats()
        for replica in self.replicas:
            total = total.plus(self.stats_of(replica.number))
        return total

    def stats_of(self, number: int) -> EngineStats:
        """The newest snapshot of one engine, counters going on over its restarts."""
        return self.replicas[number].stats

    def submit(self, *requests: Request) -> DeltaStream:
        """Hand over requests; the stream brings the deltas of all their sequences and ends after the last.

        If the stream is closed or forgotten, what is left of it is cancelled. If an engine dies, what it had begins
        again with another one, and the stream goes on where it was. Raises `EngineDeadError` if there is no engine.
        """
        if not self.alive:
            raise EngineDeadError("there is no engine")
        standings, stream = open_stream(requests, self._loop, self._abandon)
        for standing in standings:
            self._place(standing)
        return stream

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request or one of its sequences. Its stream brings the last deltas, with `abort`."""
        for standing in self._held:
            if standing.request.id == request_id:
                standing.cancel(index)
        for replica in self.replicas:
            if replica.client is not None:
                replica.client.cancel(request_id, index)

    def watch(self, number: int, on: bool) -> None:
        """Ask an engine to tell of its iterations, or to stop it."""
        (self._watched.add if on else self._watched.discard)(number)
        client = self.replicas[number].client
        if client is not None:
            client.watch(on)

    async def close(self) -> None:
        """Cancel what is open, stop the engines and wait until their processes are gone. May be called twice."""
        self._closing = True
        tasks = [task for task in (self._looking, *(each.restarting for each in self.replicas)) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(each.client.close() for each in self.replicas if each.client is not None))
        self._reserve.close()
        self._fail_held()

    # Who computes what

    def _place(self, standing: Standing) -> None:
        """Give a request to an engine. There is one."""
        # Looked at once: time goes on. A stalled engine gets something only if there is no better one.
        states = [replica.status for replica in self.replicas]
        best = "ok" if "ok" in states else "stalled"
        open_requests = [
            replica.client.num_open if replica.client is not None and state == best else None
            for replica, state in zip(self.replicas, states, strict=True)
        ]
        client = self.replicas[self._router.choose(standing.request.prompt_ids, open_requests)].client
        assert client is not None
        client.admit([standing])

    def _settle(self) -> None:
        """After a change: those that wait go on if an engine is there, and end if none will ever be."""
        if self._closing:
            return
        while self._held and self.alive:
            self._place(self._held[0])
            del self._held[0]
        if not self.alive and all(replica.restarting is None for replica in self.replicas):
            self._fail_held()
            self.given_up.set()

    def _fail_held(self) -> None:
        held, self._held = self._held, []
        for standing in held:
            message = f"the engine has died and was not begun again: {self.last_failure or 'the server ends'}"
            standing.mailbox.fail(EngineDeadError(message))

    def _abandon(self, mailbox: Mailbox) -> None:
        self._held = [standing for standing in self._held if standing.mailbox is not mailbox]
        for replica in self.replicas:
            if replica.client is not None:
                replica.client.abandon(mailbox)

    # Life and death

    async def _begin(
        self, replica: Replica, on_loading: Callable[[int, int], None], spawned: Spawned | None = None
    ) -> None:
        started = self._clock()
        if spawned is None:
            with self._reserve.lent():
                spawned = self._spawner(self._command)
        silence = replica.loading_silence(self._stall_timeout)
        client = await EngineClient.start(replica.own_config(self._config), on_loading, spawned, silence, self._clock)
        if not client.alive:  # it died before anybody could hear of it
            await client.close()
            raise EngineDeadError("the engine died as soon as it was ready")
        replica.started(client, self._clock() - started)
        client.on_stats = lambda stats: self.on_stats(replica.number, stats)
        client.on_iteration = lambda iteration: self.on_iteration(replica.number, iteration)
        client.on_death = partial(self._died, replica)
        if replica.number in self._watched:
            client.watch(True)
        pools = [each.client.facts.pool_tokens for each in self.replicas if each.client is not None]
        self._facts = client.facts if self._facts is None or client.facts.pool_tokens == min(pools) else self._facts

    def _died(self, replica: Replica, standings: list[Standing], reason: FloverError) -> None:
        client = replica.ended()
        if self._closing:
            for standing in standings:
                standing.mailbox.fail(EngineDeadError(str(reason)))
            return
        self.last_failure = str(reason)
        logger.error("engine %d has died with %d requests open: %s", replica.number, len(standings), reason)
        self._router.forget(replica.number)
        if client is not None:
            client.kill()  # its process may be stuck, or live on for nobody
        replica.restarting = asyncio.create_task(self._restart(replica, client), name="restart")
        for standing in standings:
            if standing.may_begin_again:
                self._held.append(standing)
            else:
                standing.mailbox.fail(EngineDeadError(str(reason)))
        # Engines that die of one cause die together: the others' deaths are to be heard of first.
        self._loop.call_later(SETTLE_SECONDS, self._settle)

    async def _restart(self, replica: Replica, dead: EngineClient | None) -> None:
        died = self._clock()
        try:
            if dead is not None:
                await dead.close()
            while (pause := replica.restarts.pause(self._clock())) is not None:
                if pause > 0:
                    logger.warning("engine %d is started again in %.0f s", replica.number, pause)
                    await self._sleep(pause)
                if await self._try(replica):
                    self.num_restarts += 1
                    logger.warning("engine %d is there again after %.1f s", replica.number, self._clock() - died)
                    return
            logger.error("engine %d is not started again: %s", replica.number, self.last_failure)
        finally:
            replica.restarting = None
            self._settle()

    async def _try(self, replica: Replica) -> bool:
        """Start one engine. What the machine has nothing left for is no failure of the engine."""
        missing: str | None = None
        try:
            await self._begin(replica, lambda done, total: None)
        except OutOfResourcesError as error:
            missing = str(error)
        except FloverError as error:
            self.last_failure = str(error)
        except Exception as error:
            missing = missing_resource(error)
            if missing is None:
                logger.exception("engine %d does not start again", replica.number)
                self.last_failure = f"{type(error).__name__}: {error}"
        else:
            replica.restarts.attempted(self._clock())
            return True
        self.last_failure = missing or self.last_failure
        logger.error("engine %d does not start again: %s", replica.number, self.last_failure)
        (replica.restarts.attempted if missing is None else replica.restarts.refused)(self._clock())
        return False

    async def _look(self) -> None:
        """An engine that says nothing for too long is as good as dead."""
        while self._stall_timeout > 0:
            began = self._clock()
            await self._sleep(LOOK_SECONDS)
            if self._clock() - began > 2 * LOOK_SECONDS:
                continue  # it was this process that stood still: let them speak first
            for replica in self.replicas:
                client = replica.client
                if client is not None and client.last_news_age > self._stall_timeout:
                    client.kill(f"it had said nothing for {client.last_news_age:.0f} s and was killed")
