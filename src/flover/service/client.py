"""The door's end of the engine: starts the engine process, submits requests, hands out their deltas.

Belongs to one asyncio loop; every method is called in it. Knows frames and processes, nothing of HTTP, text or torch.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from flover.config import EngineConfig
from flover.engine.queue import Cancel, Submit
from flover.engine.stats import EngineStats
from flover.errors import (
    ConfigError,
    EngineDeadError,
    EngineError,
    FloverError,
    ModelError,
    OutOfResourcesError,
    RequestError,
)
from flover.ipc import wire
from flover.ipc.exits import WatchedProcess
from flover.ipc.messages import Failed, FromEngine, Loading, News, Ready, Refused, Start, Stop, ToEngine, Watch
from flover.ipc.spawn import ENGINE_COMMAND, Spawned, spawn
from flover.observe.timeline import Iteration
from flover.request import Delta, ModelFacts, Request
from flover.service.in_flight import Standing, open_stream
from flover.service.streams import DeltaStream, Mailbox
from flover.service.tasks import to_its_end

STOP_SECONDS = 5.0
"""Time that a stopped engine gets to leave before it is killed."""
LOOK_SECONDS = 1.0
"""So often a loading engine is looked at."""
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

    def __init__(
        self, process: subprocess.Popen[bytes], sock: socket.socket, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stats = EngineStats()
        """The newest snapshot of the engine."""
        self.on_stats: Callable[[EngineStats], None] = lambda stats: None
        """Called with every snapshot that comes."""
        self.on_iteration: Callable[[Iteration], None] = lambda iteration: None
        """Called with every iteration that comes while `watch` is on."""
        self.on_death: Callable[[list[Standing], FloverError], None] = _fail_all
        """Called once when the engine is gone, with what was open in it. By default it fails for its readers."""
        self._process = WatchedProcess(process)
        self._process.on_exit = self._on_exit
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[ModelFacts] = self._loop.create_future()
        self._open: dict[str, Standing] = {}
        self._death: FloverError | None = None
        self._clock = clock
        self._last_news = clock()
        self._decode = wire.from_engine_decoder()
        self._on_loading: Callable[[int, int], None] = lambda done, total: None
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        on_loading: Callable[[int, int], None] | None = None,
        command: Spawned | Sequence[str] = ENGINE_COMMAND,
        silence: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> EngineClient:
        """Start an engine process, or take one that is spawned already, and wait until it has loaded.

        `on_loading(done, total)` is told bytes of weights. An engine that says nothing for `silence` seconds is given
        up (0: never); `clock` counts them.

        Raises `ConfigError`, `ModelError` or `EngineError`, as the engine found.
        """
        spawned = command if isinstance(command, Spawned) else spawn(command)
        client = cls(spawned.process, spawned.sock, clock)
        if on_loading is not None:
            client._on_loading = on_loading
        try:
            await client._connect(config, silence)
        except BaseException:
            await to_its_end(client.close())
            raise
        return client

    async def _connect(self, config: EngineConfig, silence: float) -> None:
        self._process.watch()
        self._sock.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        self._reading = asyncio.create_task(self._read(reader), name="engine-reader")
        self._send(Start(config))
        while not (await asyncio.wait({self._ready}, timeout=LOOK_SECONDS))[0]:
            if self.last_news_age > silence > 0:
                raise EngineError(f"the engine has said nothing for {self.last_news_age:.0f} s while it loads")
        await self._ready

    # What the door asks for

    @property
    def facts(self) -> ModelFacts:
        """What the engine said about its model."""
        return self._ready.result()

    @property
    def alive(self) -> bool:
        """Whether the engine takes requests. A stuck engine is alive; see `last_news_age`."""
        return self._death is None

    @property
    def last_news_age(self) -> float:
        """Seconds since the engine last sent anything; it does so all the time, even when idle."""
        return self._clock() - self._last_news

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._open)

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._process.pid

    def submit(self, *requests: Request) -> DeltaStream:
        """Hand over requests; the stream brings the deltas of all their sequences and ends after the last.

        If the stream is closed or forgotten, what is left of it is cancelled in the engine. Raises `EngineDeadError`.
        """
        standings, stream = open_stream(requests, self._loop, self.abandon)
        self.admit(standings)
        return stream

    def admit(self, standings: Sequence[Standing]) -> None:
        """Let these requests begin here. Raises `EngineDeadError`.

        There is no await between registration and hand-over: a request is either in the engine with somebody to
        read it, or nowhere.
        """
        if self._death is not None:
            raise EngineDeadError(str(self._death))
        frames = [wire.encode(Submit(standing.request)) for standing in standings]
        for standing, frame in zip(standings, frames, strict=True):
            self._open[standing.request.id] = standing
            self._write(frame)
            for index in standing.begin():
                self._send(Cancel(standing.request.id, index))

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request or one of its sequences. Its stream brings the last deltas, with `abort`. What is not open is
        ignored."""
        if self._death is None and request_id in self._open:
            self._open[request_id].cancel(index)
            self._send(Cancel(request_id, index))

    def abandon(self, mailbox: Mailbox) -> None:
        """Nobody will read this mailbox again: cancel what is left of it here."""
        for request_id in mailbox.unfinished:
            if self._open.pop(request_id, None) is not None and self._death is None:
                self._send(Cancel(request_id))

    def watch(self, on: bool) -> None:
        """Ask the engine to tell of its iterations, or to stop it."""
        if self._death is None:
            self._send(Watch(on))

    def kill(self, reason: str | None = None) -> None:
        """End the process now; `reason` is what its readers are told."""
        self._process.kill(reason)

    async def close(self) -> None:
        """Cancel what is open, stop the engine and wait until its process is gone. May be called twice."""
        if self._death is None and self._writer is not None:
            for request_id in self._open:
                self._send(Cancel(request_id))
            self._send(Stop())
        elif self._process.running:
            self._process.kill()
        await self._process.wait(STOP_SECONDS)
        if not self._process.exited.is_set():
            self._process.kill()
            await self._process.exited.wait()
        if self._reading is not None and not (await asyncio.wait({self._reading}, timeout=DRAIN_SECONDS))[0]:
            self._reading.cancel()
        self._die(EngineDeadError("the engine was stopped"))
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()

    # News from the engine

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason: FloverError = EngineDeadError("the engine process has ended")
        try:
            while True:
                length = wire.body_length(await reader.readexactly(wire.HEADER_BYTES))
                self._take(self._decode(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            # How its process ended is heard of a moment after the end of its socket.
            await self._process.wait(DRAIN_SECONDS)
            reason = EngineDeadError(self._process.reason)
        except (wire.WireError, OSError, asyncio.InvalidStateError) as error:
            reason = EngineDeadError(f"the connection to the engine broke: {error}")
        except FloverError as error:
            reason = error
        except Exception as error:
            logger.exception("the news of an engine could not be taken in")
            reason = EngineDeadError(f"the news of the engine could not be taken in: {error}")
        finally:
            self._die(reason)

    def _take(self, message: FromEngine) -> None:
        self._last_news = self._clock()
        if isinstance(message, News):
            self.stats = message.stats
            self.on_stats(message.stats)
            for iteration in message.iterations:
                self.on_iteration(iteration)
            for delta in message.deltas:
                self._deliver(delta)
        elif isinstance(message, Loading):
            self._on_loading(message.done, message.total)
        elif isinstance(message, Ready):
            self._ready.set_result(message.facts)
        elif isinstance(message, Refused):
            self._refuse(message)
        else:
            raise _failure(message)

    def _deliver(self, delta: Delta) -> None:
        standing = self._open.get(delta.request_id)
        if standing is None:
            return  # closed by its reader while this delta was under way
        mailbox = standing.mailbox
        try:
            news = standing.take(delta)
        except EngineError as error:
            mailbox.fail(error)
            self.abandon(mailbox)
            return
        if news is None:
            return
        mailbox.put(news)
        if mailbox.has_ended(delta.request_id):
            del self._open[delta.request_id]
        if mailbox.overflowed:
            self.abandon(mailbox)

    def _refuse(self, refused: Refused) -> None:
        standing = self._open.pop(refused.request_id, None)
        if standing is not None:
            standing.mailbox.fail(RequestError(refused.message, param=refused.param, code=refused.code))
            self.abandon(standing.mailbox)

    def _die(self, reason: FloverError) -> None:
        if self._death is not None:
            return
        self._death = reason
        if not self._ready.done():
            self._ready.set_exception(EngineError(str(reason)) if isinstance(reason, EngineDeadError) else reason)
            self._ready.exception()  # `start` may have been cancelled: not an error that nobody looked at
        standings, self._open = list(self._open.values()), {}
        self.on_death(standings, reason)

    def _send(self, message: ToEngine) -> None:
        self._write(wire.encode(message))

    def _write(self, frame: bytes) -> None:
        assert self._writer is not None
        # A connection that has broken is heard of by the reader, a moment later.
        if not self._writer.transport.is_closing():
            self._writer.write(frame)

    def _on_exit(self) -> None:
        if self._reading is not None:
            self._loop.call_later(DRAIN_SECONDS, self._die, EngineDeadError(self._process.reason))


def _failure(failed: Failed) -> FloverError:
    return _FAILURES.get(failed.kind, EngineDeadError)(failed.message)


def _fail_all(standings: list[Standing], reason: FloverError) -> None:
    for standing in standings:
        standing.mailbox.fail(EngineDeadError(str(reason)))
