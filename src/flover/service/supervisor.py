"""The replicas of one server: routes requests among them, restarts a crashed engine and replays its in-flight requests.

Belongs to one asyncio loop, as `EngineClient` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from flover.config import EngineConfig
from flover.engine.stats import EngineStats
from flover.errors import EngineDeadError, FloverError
from flover.ipc.spawn import ENGINE_COMMAND, DescriptorReserve, Spawned, Spawner, spawn
from flover.observe.timeline import Iteration
from flover.request import ModelFacts, Request
from flover.service.dispatcher import Dispatcher
from flover.service.in_flight import InFlightRequest, fail_all, open_stream
from flover.service.listener import SupervisorListener
from flover.service.replica import Launch, Replica
from flover.service.streams import DeltaStream
from flover.structured_outputs import Vocabulary

LOOK_SECONDS = 1.0
"""How often the supervisor looks for engines that send nothing."""
SETTLE_SECONDS = 0.05
"""From a death to the next engine for what was open."""


class Supervisor:
    """`config.data_parallel_size` replicas, each with the whole model. Made by `start`."""

    def __init__(self, launch: Launch, listener: SupervisorListener) -> None:
        self.given_up = asyncio.Event()
        """Set when no engine is left and none will be restarted."""
        self.replicas = [Replica(number, launch, self) for number in range(launch.config.data_parallel_size)]
        self._launch = launch
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._dispatcher = Dispatcher(self.replicas)
        self._closing = False
        self._looking: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        listener: SupervisorListener | None = None,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        spawned: Spawned | None = None,
        stall_timeout: float = 0.0,
        spawner: Spawner = spawn,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> Supervisor:
        """Start all engines and wait until they have loaded; `spawned` is the process of the first one, if it runs
        already. An engine that sends nothing for `stall_timeout` seconds is killed and restarted (0: never).
        `spawner` starts processes; `clock` and `sleep` count the same seconds.

        Raises `ConfigError`, `ModelError` or `EngineError` as the first engine that fails does.
        """
        launch = Launch(config, command, stall_timeout, spawner, clock, sleep, DescriptorReserve())
        supervisor = cls(launch, listener or SupervisorListener())
        try:
            await supervisor._start_all(spawned)
        except BaseException as error:
            await supervisor.close()
            raise error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error from None
        supervisor._looking = asyncio.create_task(supervisor._look(), name="supervisor")
        return supervisor

    async def _start_all(self, spawned: Spawned | None) -> None:
        loaded = [(0, 0) for _ in self.replicas]

        def note(number: int, done: int, total: int, *counted: str) -> None:
            if counted:
                self._listener.on_loading(done, total, *counted)
                return
            loaded[number] = done, total
            self._listener.on_loading(sum(each[0] for each in loaded), sum(each[1] for each in loaded))

        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                process = spawned if replica.number == 0 else None
                group.create_task(replica.start(partial(note, replica.number), process))

    # For the server

    @property
    def facts(self) -> ModelFacts:
        """What the engines said about the model; the smallest pool that one of them has."""
        known = [replica.facts for replica in self.replicas if replica.facts is not None]
        return min(known, key=lambda facts: facts.pool_tokens)

    @property
    def status(self) -> str:
        """That of the healthiest engine: "ok", "stalled", "restarting" or "dead"."""
        states = {replica.status for replica in self.replicas}
        return next(state for state in ("ok", "stalled", "restarting", "dead") if state in states)

    @property
    def alive(self) -> bool:
        """Whether an engine takes requests. A stuck one does."""
        return self._dispatcher.ready

    @property
    def stats(self) -> EngineStats:
        """All engines as one; counters go on over restarts."""
        total = EngineStats()
        for replica in self.replicas:
            total = total.plus(replica.stats)
        return total

    @property
    def num_restarts(self) -> int:
        """Engines that were restarted."""
        return sum(replica.num_restarts for replica in self.replicas)

    @property
    def last_failure(self) -> str:
        """Why an engine last died or did not start; empty if none did."""
        return max(replica.last_failure for replica in self.replicas)[1]

    def prepare(self, vocabulary: Vocabulary) -> None:
        """Have all engines read the vocabulary of structured outputs before any request that follows."""
        for replica in self.replicas:
            replica.prepare(vocabulary)

    def submit(self, *requests: Request, vocabulary: Vocabulary | None = None) -> DeltaStream:
        """Submit requests; the stream brings the deltas of all their sequences and ends after the last. Those with
        structured outputs need the tokenizer's vocabulary.

        If the stream is closed or garbage collected, what is left of it is cancelled. If an engine dies, another one
        replays its requests, and the stream goes on where it was. Raises `EngineDeadError` if no engine runs.
        """
        if not self.alive:
            raise EngineDeadError("no engine is running")
        opened, stream = open_stream(requests, self._loop, self._dispatcher.abandon, vocabulary)
        for request in opened:
            self._dispatcher.place(request)
        return stream

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request or one of its sequences. Its stream brings the last deltas, with `abort`."""
        self._dispatcher.cancel(request_id, index)

    def watch(self, replica: int, on: bool) -> None:
        """Whether a replica is to describe its iterations."""
        self.replicas[replica].watch(on)

    async def close(self) -> None:
        """Cancel what is open, stop the engines and wait until their processes are gone. May be called twice."""
        self._closing = True
        for replica in self.replicas:
            replica.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self.replicas))
        self._launch.reserve.close()
        self._fail_waiting()

    # From the replicas

    def on_stats(self, replica: int, stats: EngineStats) -> None:
        """A snapshot of a replica's engine."""
        self._listener.on_stats(replica, stats)

    def on_iteration(self, replica: int, iteration: Iteration) -> None:
        """An iteration of a replica that is watched."""
        self._listener.on_iteration(replica, iteration)

    def on_death(self, replica: int, requests: Sequence[InFlightRequest], reason: FloverError) -> None:
        """A replica's engine is gone, and these requests were open in it."""
        if self._closing:
            fail_all(requests, reason)
            return
        self._dispatcher.lost(replica, requests, reason)
        # Engines that die of one cause die together: the deaths of the others are reported first.
        self._loop.call_later(SETTLE_SECONDS, self.on_restart_end)

    def on_restart_end(self) -> None:
        """A replica was restarted, or will not be: requests that wait go on if an engine runs, and end if none will."""
        if self._closing:
            return
        self._dispatcher.place_waiting()
        if not self.alive and all(replica.restarting is None for replica in self.replicas):
            self._fail_waiting()
            self.given_up.set()

    def _fail_waiting(self) -> None:
        reason = self.last_failure or "the server is shutting down"
        self._dispatcher.fail_waiting(EngineDeadError(f"the engine has died and was not restarted: {reason}"))

    async def _look(self) -> None:
        """Kill engines that have sent nothing for too long."""
        launch = self._launch
        while launch.stall_timeout > 0:
            began = launch.clock()
            await launch.sleep(LOOK_SECONDS)
            if launch.clock() - began > 2 * LOOK_SECONDS:
                continue  # this process itself was stopped: read what has come first
            for replica in self.replicas:
                client = replica.client
                if client is not None and client.last_message_age > launch.stall_timeout:
                    client.kill(f"it had sent nothing for {client.last_message_age:.0f} s and was killed")
