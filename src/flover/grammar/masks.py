"""Masks of an iteration, made in a thread of their own while the forward runs: llguidance releases the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from flover.errors import EngineError
from flover.grammar.state import GrammarState

STACK_BYTES = 64 * 2**20
"""llguidance recurses as deep as a grammar does. Only what is used of it takes memory."""


class MaskThread:
    """Builds masks. Belongs to one thread, which starts a round and ends it before the next."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._rounds: SimpleQueue[Sequence[GrammarState]] = SimpleQueue()
        self._results: SimpleQueue[EngineError | None] = SimpleQueue()
        self._building = False

    def start(self, states: Sequence[GrammarState]) -> None:
        """Begin to build the masks of these states, which nothing else may touch until `finish`."""
        self.finish()
        if not states:
            return
        if self._thread is None:
            self._thread = start_deep_thread(self._run, "masks")
        self._building = True
        self._rounds.put(states)

    def finish(self) -> None:
        """Wait until they are built."""
        if self._building:
            self._building = False
            error = self._results.get()
            if error is not None:
                raise error

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._rounds.put(())
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while states := self._rounds.get():
            try:
                for state in states:
                    state.build()
                self._results.put(None)
            except BaseException as error:  # a panic of llguidance is no Exception
                self._results.put(EngineError(f"a mask failed: {type(error).__name__}: {error}"))


def start_deep_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread with a stack for grammars."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    before = threading.stack_size(STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    return thread
