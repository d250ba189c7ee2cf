"""The server's end of one engine: starts the process, submits requests, hands out their deltas.

Belongs to one asyncio loop; every method is called in it. Knows processes and messages, nothing of HTTP, text or torch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from flover.config import EngineConfig
from flover.engine.queue import Cancel, Submit
from flover.engine.stats import EngineStats
from flover.errors import (
    ConfigError,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    FloverError,
    ModelError,
    OutOfResourcesError,
    RequestError,
)
from flover.ipc import wire
from flover.ipc.child_process import ChildProcess
from flover.ipc.connection import Connection
from flover.ipc.messages import (
    EngineOutputs,
    Failed,
    FromEngine,
    Loading,
    Ready,
    Refused,
    Start,
    Stop,
    UseVocabulary,
    Watch,
)
from flover.ipc.spawn import ENGINE_COMMAND, Spawned, spawn
from flover.request import ModelFacts, Request
from flover.service.in_flight import InFlightRequest, InFlightTable, end_of_engine, open_stream
from flover.service.listener import EngineListener
from flover.service.shield import shielded
from flover.service.streams import DeltaStream, Mailbox
from flover.structured_outputs import Vocabulary

STOP_SECONDS = 5.0
"""Time that a stopped engine gets to exit before it is killed."""
LOOK_SECONDS = 1.0
"""How often a loading engine is looked at."""
DRAIN_SECONDS = 1.0
"""Time to read what a process sent before it ended; its socket may be held open by a child of its own."""

logger = logging.getLogger(__name__)
_FAILURES: dict[str, type[FloverError]] = {
    "model": ModelError,
    "config": ConfigError,
    "resources": OutOfResourcesError,
}


class EngineClient:
    """One engine process and the requests that are open in it. Made by `start`."""

    def __init__(self, spawned: Spawned, listener: EngineListener, clock: Callable[[], float]) -> None:
        self.stats = EngineStats()
        """The newest snapshot of the engine."""
        self._listener = listener
        self._spawned = spawned
        self._process = ChildProcess(spawned.process, self._on_exit)
        self._connection = Connection(spawned.sock)
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[ModelFacts] = self._loop.create_future()
        self._requests = InFlightTable()
        self._death: FloverError | None = None
        self._has_vocabulary = False
        self._clock = clock
        self._last_message = clock()
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        listener: EngineListener | None = None,
        command: Spawned | Sequence[str] = ENGINE_COMMAND,
        silence: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> EngineClient:
        """Start an engine process, or take one that is spawned already (for `config`), and wait until it has loaded.

        A loading engine that sends nothing for `silence` seconds of `clock` is given up (0: never).

        Raises `ConfigError`, `ModelError` or `EngineError`, as the engine found.
        """
        spawned = command if isinstance(command, Spawned) else spawn(command)
        client = cls(spawned, listener or EngineListener(), clock)
        try:
            await client._load(config, silence)
        except BaseException:
            await shielded(client.close())
            raise
        return client

    async def _load(self, config: EngineConfig, silence: float) -> None:
        self._process.watch()
        await self._connection.open()
        self._reading = asyncio.create_task(self._read(), name="engine-reader")
        if not self._spawned.told:
            self._connection.send(Start(config))
        while not (await asyncio.wait({self._ready}, timeout=LOOK_SECONDS))[0]:
            if self.last_message_age > silence > 0:
                raise EngineError(f"the engine has sent nothing for {self.last_message_age:.0f} s while it loads")
        await self._ready

    # For the server

    @property
    def facts(self) -> ModelFacts:
        """What the engine said about its model."""
        return self._ready.result()

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests. A stuck engine is alive; see `last_message_age`."""
        return self._death is None

    @property
    def last_message_age(self) -> float:
        """Seconds since the engine last sent anything; it does so all the time, even when idle."""
        return self._clock() - self._last_message

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._process.pid

    def submit(self, *requests: Request) -> DeltaStream:
        """Submit requests; the stream brings the deltas of all their sequences and ends after the last.

        If the stream is closed or garbage collected, what is left of it is cancelled in the engine. Raises
        `EngineDeadError` or `EngineClosedError`.
        """
        opened, stream = open_stream(requests, self._loop, self.abandon)
        self.admit(opened)
        return stream

    def admit(self, requests: Sequence[InFlightRequest]) -> None:
        """Compute these requests here. Raises `EngineDeadError` or `EngineClosedError`.

        There is no await between registering a request and sending it: a request is either in the engine with a
        mailbox that waits for it, or nowhere.
        """
        if self._death is not None:
            raise end_of_engine(self._death)
        attempts = [each.start_attempt(self.facts.deterministic) for each in requests]
        frames = [wire.encode(Submit(request)) for request, _ in attempts]
        for each, (request, cancelled), frame in zip(requests, attempts, frames, strict=True):
            if each.vocabulary is not None and not self._has_vocabulary:
                self._connection.send(UseVocabulary(each.vocabulary))
                self._has_vocabulary = True
            self._requests.add(each)
            self._connection.write(frame)
            for index in cancelled:
                self._connection.send(Cancel(request.id, index))

    def prepare(self, vocabulary: Vocabulary) -> None:
        """Have the engine read the vocabulary of structured outputs before any request that follows."""
        if self._death is None and not self._has_vocabulary:
            self._connection.send(UseVocabulary(vocabulary, prepare=True))
            self._has_vocabulary = True

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request or one of its sequences. Its stream brings the last deltas, with `abort`. Ids that are not open
        are ignored."""
        request = self._requests.get(request_id)
        if request is not None:
            request.cancel(index)
            self._connection.send(Cancel(request_id, index))

    def abandon(self, mailbox: Mailbox) -> None:
        """This mailbox is read no more: cancel what is left of it here."""
        self._cancel_all(self._requests.drop(mailbox))

    def watch(self, on: bool) -> None:
        """Whether the engine is to describe its iterations."""
        if self._death is None:
            self._connection.send(Watch(on))

    def kill(self, reason: str | None = None) -> None:
        """End the process now; `reason` is what its requests fail with."""
        self._process.kill(reason)

    async def close(self) -> None:
        """Cancel what is open, stop the engine and wait until its process is gone. May be called twice."""
        if self._death is None and self._connection.is_open:
            self._cancel_all(self._requests)
            self._connection.send(Stop())
        elif self._process.running:
            self._process.kill()
        await self._process.close(STOP_SECONDS)
        if self._reading is not None and not (await asyncio.wait({self._reading}, timeout=DRAIN_SECONDS))[0]:
            self._reading.cancel()
        self._die(EngineClosedError("the engine was stopped"))
        self._connection.close()

    # From the engine

    async def _read(self) -> None:
        reason: FloverError = EngineDeadError("the engine process has ended")
        try:
            while (message := await self._connection.receive()) is not None:
                self._take(message)
            # How its process ended is known a moment after the end of its socket.
            await self._process.wait(DRAIN_SECONDS)
            reason = EngineDeadError(self._process.reason)
        except (wire.WireError, OSError, asyncio.InvalidStateError) as error:
            reason = EngineDeadError(f"the connection to the engine broke: {error}")
        except FloverError as error:
            reason = error
        except Exception as error:
            logger.exception("a message of an engine could not be handled")
            reason = EngineDeadError(f"a message of the engine could not be handled: {error}")
        finally:
            self._die(reason)

    def _take(self, message: FromEngine) -> None:
        self._last_message = self._clock()
        if isinstance(message, EngineOutputs):
            self.stats = message.stats
            self._listener.on_stats(message.stats)
            for iteration in message.iterations:
                self._listener.on_iteration(iteration)
            for delta in message.deltas:
                self._cancel_all(self._requests.deliver(delta))
        elif isinstance(message, Loading):
            counted = [message.counted] if message.counted else []
            self._listener.on_loading(message.done, message.total, *counted)
        elif isinstance(message, Ready):
            self._ready.set_result(message.facts)
        elif isinstance(message, Refused):
            error = RequestError(message.message, param=message.param, code=message.code)
            self._cancel_all(self._requests.refuse(message.request_id, error))
        else:
            raise _failure(message)

    def _die(self, reason: FloverError) -> None:
        if self._death is not None:
            return
        self._death = reason
        if not self._ready.done():
            self._ready.set_exception(EngineError(str(reason)) if isinstance(reason, EngineDeadError) else reason)
            self._ready.exception()  # `start` may have been cancelled: the exception counts as retrieved
        self._listener.on_death(self._requests.clear(), reason)

    def _cancel_all(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._connection.send(Cancel(request_id))

    def _on_exit(self) -> None:
        if self._reading is not None:
            self._loop.call_later(DRAIN_SECONDS, self._die, EngineDeadError(self._process.reason))


def _failure(failed: Failed) -> FloverError:
    return _FAILURES.get(failed.kind, EngineDeadError)(failed.message)
