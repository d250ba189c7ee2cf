"""Runs a batch of requests on an engine in this process until all have ended."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol

from flover.engine.stats import EngineStats
from flover.errors import EngineDeadError, FloverError
from flover.llm.outputs import OutputBuilder
from flover.progress import GenerationBar
from flover.request import Delta, ModelFacts, Request


class RunsRequests(Protocol):
    """What `LLM` asks of an engine; `flover.engine.loop.Engine` is one."""

    @property
    def has_work(self) -> bool: ...
    @property
    def facts(self) -> ModelFacts: ...
    def submit(self, request: Request) -> None: ...
    def cancel(self, request_id: str, index: int | None = None) -> None: ...
    def step(self) -> list[Delta]: ...
    def stats(self) -> EngineStats: ...
    def reset_prefix_cache(self) -> None: ...
    def close(self) -> None: ...


def run_batch(engine: RunsRequests, builders: Sequence[OutputBuilder], bar: GenerationBar) -> None:
    """Run all requests to their ends; if anything comes between, the engine forgets them.

    Ctrl-C takes effect between two iterations. Raises `EngineDeadError` if the engine cannot go on.
    """
    running: dict[str, OutputBuilder] = {}
    with bar, deferred_interrupt() as interrupted:
        try:
            for builder in builders:
                engine.submit(builder.request)
                running[builder.request.id] = builder
            while running and not interrupted.is_set():
                _take_news(engine, running, bar)
        finally:
            for request_id in running:
                engine.cancel(request_id)
            with contextlib.suppress(FloverError):
                while engine.has_work:  # cancelled sequences leave at the next iteration
                    engine.step()
    if interrupted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets an event instead of breaking into an iteration, where it would leave half-done work behind.

    Only in the main thread, and only where Python's own handler is in place: others know what they do.
    """
    interrupted = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupted
        return

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_news(engine: RunsRequests, running: dict[str, OutputBuilder], bar: GenerationBar) -> None:
    """One iteration of the engine."""
    deltas = engine.step()
    if not deltas and not engine.has_work:
        raise EngineDeadError(f"the engine is idle, but {len(running)} requests have not ended")
    now = time.perf_counter()
    for delta in deltas:
        builder = running.get(delta.request_id)
        if builder is None:
            continue
        if builder.feed(delta, now):
            engine.cancel(delta.request_id, delta.index)
        if builder.finished:
            del running[delta.request_id]
            bar.finished += 1
    bar.advance(now, sum(len(delta.token_ids) for delta in deltas))
