"""Runs requests on an engine in this process until all have ended."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Protocol

from flover.engine.stats import EngineStats
from flover.errors import FloverError, InvariantError
from flover.llm.outputs import OutputBuilder
from flover.progress import GenerationBar
from flover.request import Delta, ModelFacts, Request
from flover.structured_outputs import Vocabulary
from flover.text.stream import TextPiece
from flover.text.streams import TextStreams


class RunsRequests(Protocol):
    """What `LLM` asks of an engine; `flover.engine.loop.Engine` is one."""

    @property
    def has_work(self) -> bool: ...
    @property
    def facts(self) -> ModelFacts: ...
    def submit(self, request: Request, vocabulary: Vocabulary | None = None) -> None: ...
    def cancel(self, request_id: str, index: int | None = None) -> None: ...
    def step(self) -> list[Delta]: ...
    def stats(self) -> EngineStats: ...
    def reset_prefix_cache(self) -> None: ...
    def close(self) -> None: ...


def run_requests(
    engine: RunsRequests, requests: Sequence[Request], texts: TextStreams
) -> Generator[list[tuple[Delta, TextPiece]], None, None]:
    """Submit requests, whose streams `texts` holds, and run them to their ends. Gives, after each iteration, its deltas
    and what they add to the texts. Left early, what has not ended is cancelled. Ctrl-C takes effect between iterations.

    Raises `EngineDeadError` if the engine cannot go on, `InvariantError` if it has lost a request.
    """
    with deferred_interrupt() as handle_interrupt:
        try:
            for request in requests:
                if request.params.structured_outputs is not None and texts.tokenizer is not None:
                    engine.submit(request, texts.tokenizer.vocabulary)
                else:
                    engine.submit(request)
            while texts:
                handle_interrupt()
                deltas = engine.step()
                if not deltas and not engine.has_work:
                    raise InvariantError(f"the engine is idle, but {len(texts)} sequences have not ended")
                yield [
                    (delta, texts.feed(stream, delta)) for delta in deltas if (stream := texts.find(delta)) is not None
                ]
        finally:
            for request_id, index in texts:
                engine.cancel(request_id, index)
            with contextlib.suppress(FloverError):
                while engine.has_work:  # cancelled sequences leave at the next iteration
                    engine.step()


def run_batch(engine: RunsRequests, builders: Sequence[OutputBuilder], texts: TextStreams, bar: GenerationBar) -> None:
    """Run all requests to their ends."""
    by_id = {builder.request.id: builder for builder in builders}
    iterations = run_requests(engine, [builder.request for builder in builders], texts)
    with bar, contextlib.closing(iterations):
        for deltas in iterations:
            now = time.perf_counter()
            for delta, piece in deltas:
                builder = by_id[delta.request_id]
                builder.note(delta, piece, now)
                bar.finished += builder.finished
            bar.advance(now, sum(len(delta.token_ids) for delta, _ in deltas))


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Ctrl-C is handled when the function it gives is called, and at the end. Inside an iteration an exception would
    leave half-done work behind, or get lost: native code may drop it.

    Only in the main thread, and only where a handler in Python is in place.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield lambda: None
        return
    arrived = threading.Event()

    def handle() -> None:
        if arrived.is_set():
            arrived.clear()
            handler(signal.SIGINT, None)

    signal.signal(signal.SIGINT, lambda number, frame: arrived.set())
    try:
        yield handle
    finally:
        signal.signal(signal.SIGINT, handler)
        handle()
