"""The engine process: `python -m flover.service.process FD` serves one server over the inherited socket FD.

Two threads. The reader takes messages from the server and hands them to the engine; the main thread steps the engine
and sends its outputs. Knows messages and the engine's interface, nothing of models, HTTP or text.

The process belongs to its server. When the socket ends the server is dead, and this process exits at once, whatever
the main thread is doing.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.engine.queue import Cancel
from flover.engine.stats import EngineStats
from flover.errors import ConfigError, EngineError, ModelError, OutOfResourcesError, RequestError
from flover.heap import return_freed_memory
from flover.ipc import wire
from flover.ipc.messages import (
    EngineOutputs,
    Failed,
    FromEngine,
    Ready,
    Refused,
    Start,
    Stop,
    ToEngine,
    UseVocabulary,
    Watch,
)
from flover.ipc.signals import leave_to_the_server
from flover.observe.timeline import Iteration, Timeline
from flover.request import Delta, FinishReason, Request
from flover.service.loading_steps import LoadingSteps
from flover.service.preparation import Preparation, prepare_vocabulary
from flover.structured_outputs import Vocabulary

HEARTBEAT_SECONDS = 0.25
"""An idle engine sends its counters this often, so that the server can tell idle from stuck."""
WATCH_SECONDS = 0.05
"""While watched, iterations are sent this often: several at once, which costs less."""
ORPHAN_GRACE_SECONDS = 0.5
"""Time for the main thread to exit in order after the server died; then the reader ends the process."""
YOUNG_ONLY = (2_000, 10, 2**30)
"""Thresholds of the garbage collector's three generations; the third is never reached."""
SPLIT_BYTES = 2**20
"""Longer outputs are sent delta by delta: the server's event loop has other work in between."""
EXIT_FAILED = 1

logger = logging.getLogger(__name__)


class ServerGone(Exception):  # noqa: N818  # an event, not a fault of this process
    """The other end of the socket is closed."""


EngineFactory = Callable[[EngineConfig, Callable[[int, int], None]], Engine]
"""Builds an engine; the second argument is called with bytes done and bytes in all while weights are loaded."""


class EngineProcess:
    """One engine behind one socket."""

    def __init__(self, sock: socket.socket, factory: EngineFactory) -> None:
        self._sock = sock
        self._factory = factory
        self._decode = wire.to_engine_decoder()
        self._sending = threading.Lock()
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._config: EngineConfig | None = None
        self._engine: Engine | None = None
        self._vocabulary: Vocabulary | None = None
        self._preparation = Preparation(self._submit, self._cancel)
        self._watched = False
        """Whether to describe iterations; set by the reader, obeyed between two steps."""
        self._timeline: Timeline | None = None
        self._next_iterations = 0.0

    def run(self) -> int:
        """Load, serve until told to stop, and return the exit code."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        self._started.wait()
        if self._config is None:
            return EXIT_FAILED
        try:
            engine = self._load(self._config)
        except ServerGone:
            return EXIT_FAILED
        except Exception as error:
            return self._fail(_kind(error), error)
        try:
            self._serve(engine)
        except ServerGone:
            return EXIT_FAILED
        except Exception as error:
            return self._fail("engine", error)
        finally:
            self._preparation.close()
            engine.close()
        return 0

    def _load(self, config: EngineConfig) -> Engine:
        engine = self._factory(config, LoadingSteps(self._send))
        self._engine = engine
        # What loading made stays for ever: the collector need never look at it again. Of what comes later it looks at
        # the young objects only, which takes microseconds; at all of them when the engine is idle.
        return_freed_memory()
        gc.freeze()
        gc.set_threshold(*YOUNG_ONLY)
        self._send(Ready(engine.facts))
        return engine

    def _serve(self, engine: Engine) -> None:
        collected = True
        while not self._stopping.is_set():
            busy = engine.wait(HEARTBEAT_SECONDS)
            if not busy and not collected:
                gc.collect()
            collected = not busy
            self._watch(engine)
            self._deliver(engine, engine.step() if busy else [])
        # The server cancels what is open before it sends `Stop`: one more iteration boundary ends it all.
        if engine.wait(0):
            self._deliver(engine, engine.step())

    def _watch(self, engine: Engine) -> None:
        if self._watched and self._timeline is None:
            self._timeline = Timeline()
            engine.observe(self._timeline)
        elif not self._watched and self._timeline is not None:
            engine.unobserve(self._timeline)
            self._timeline = None

    def _iterations(self, stats: EngineStats) -> list[Iteration]:
        """Those since the last call, when it is time to send them."""
        now = time.monotonic()
        idle = stats.running + stats.waiting == 0
        if self._timeline is None or not (idle or now >= self._next_iterations):
            return []
        self._next_iterations = now + WATCH_SECONDS
        return self._timeline.take()

    def _deliver(self, engine: Engine, deltas: list[Delta]) -> None:
        stats = engine.stats()
        iterations = self._iterations(stats)
        try:
            self._send(EngineOutputs(deltas, stats, iterations), SPLIT_BYTES if len(deltas) > 1 else None)
        except wire.WireError:
            if iterations:
                self._send(EngineOutputs([], stats, iterations))
            for delta in deltas:
                self._deliver_alone(engine, delta, stats)

    def _deliver_alone(self, engine: Engine, delta: Delta, stats: EngineStats) -> None:
        """The outputs of an iteration were too long for one frame; one delta that is too long ends its sequence."""
        try:
            self._send(EngineOutputs([delta], stats))
        except wire.WireError as error:
            engine.cancel(delta.request_id, delta.index)
            self._send(
                EngineOutputs([_failed(delta.request_id, delta.index, f"its answer is too long: {error}")], stats)
            )

    def _send(self, message: FromEngine, most: int | None = None) -> None:
        """Raises `WireError`, and sends nothing, if the frame would be longer than `most` bytes."""
        frame = wire.encode(message)
        if most is not None and len(frame) > most:
            raise wire.WireError(f"{type(message).__name__} takes {len(frame)} bytes")
        try:
            with self._sending:
                self._sock.sendall(frame)
        except OSError as error:
            raise ServerGone from error

    def _fail(self, kind: str, error: Exception) -> int:
        known = isinstance(error, ConfigError | ModelError | EngineError)
        if not known:
            logger.error("the engine stops", exc_info=error)
        try:
            self._send(Failed(kind, str(error) if known else f"{type(error).__name__}: {error}"))
        except ServerGone:
            logger.error("the server is gone, and the failure cannot be sent")
        return EXIT_FAILED

    # The reader thread

    def _read(self) -> None:
        try:
            while (body := wire.receive(self._sock)) is not None:
                self._take_body(body)
        except (OSError, wire.WireError) as error:
            logger.error("reading from the server failed: %s", error)
        finally:  # whatever ended this thread, an engine that reads no messages must not live on
            if not self._stopping.is_set():
                self._orphaned()

    def _take_body(self, body: memoryview) -> None:
        """One frame. A request that cannot be read is refused; frames are as long as they say, so the next one can."""
        try:
            message = self._decode(body)
        except wire.WireError as error:
            request_id = wire.request_id_of(body)
            if request_id is None or self._engine is None:
                raise
            self._send(Refused(request_id, f"the engine cannot read this request: {error}"))
        else:
            self._take(message)

    def _take(self, message: ToEngine) -> None:
        engine = self._engine
        if isinstance(message, Stop):
            self._stopping.set()
            if engine is None:  # still loading: there is nothing to end in order
                os._exit(0)
        elif isinstance(message, Start):
            self._config = message.config
            self._started.set()
        elif isinstance(message, Watch):
            self._watched = message.on
        elif isinstance(message, UseVocabulary):
            self._vocabulary = message.vocabulary
            if message.prepare and engine is not None and prepare_vocabulary(engine, message.vocabulary):
                self._vocabulary = None  # the engine has read it
                return_freed_memory()
        elif engine is None:
            raise wire.WireError(f"{type(message).__name__} came before the engine was ready")
        elif isinstance(message, Cancel):
            if not self._preparation.holds(message):
                self._cancel(message)
        else:
            self._submit(message.request)

    def _cancel(self, cancel: Cancel) -> None:
        assert self._engine is not None
        self._engine.cancel(cancel.request_id, cancel.index)

    def _submit(self, request: Request, failure: RequestError | None = None) -> None:
        """Give a request to the engine; one that has to be prepared comes back here, with the error if it cannot be."""
        engine = self._engine
        assert engine is not None
        try:
            if failure is not None:
                raise failure
            if request.params.needs_preparation and (work := engine.prepare(request, self._vocabulary)) is not None:
                self._preparation.put(request, work)
            else:
                engine.submit(request, self._vocabulary)
        except RequestError as error:
            self._send(Refused(request.id, error.message, error.param, error.code))
        except Exception as error:  # a fault of ours: it ends this request alone
            logger.error("a request cannot be taken in", exc_info=error)
            said = f"the engine failed on this request: {type(error).__name__}"
            self._send(
                EngineOutputs([_failed(request.id, index, said) for index in range(request.params.n)], engine.stats())
            )

    def _orphaned(self) -> None:
        """No server reads what this process computes."""
        self._stopping.set()
        self._started.set()
        threading.Event().wait(ORPHAN_GRACE_SECONDS)
        os._exit(EXIT_FAILED)


def _failed(request_id: str, index: int, error: str) -> Delta:
    return Delta(request_id=request_id, index=index, finish_reason=FinishReason.ERROR, error=error)


def _kind(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return "config"
    if isinstance(error, ModelError):
        return "model"
    return "resources" if isinstance(error, OutOfResourcesError) else "engine"


def _default_factory() -> EngineFactory:
    from flover.service.build import build_engine  # here, so that another factory loads no model code

    return build_engine


def main(arguments: Sequence[str], factory: EngineFactory | None = None) -> int:
    """Serve the server on the file descriptor that `arguments` names; returns the exit code."""
    descriptor = int(arguments[-1])
    os.set_inheritable(descriptor, False)
    leave_to_the_server()
    with socket.socket(fileno=descriptor) as sock:
        return EngineProcess(sock, factory or _default_factory()).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
