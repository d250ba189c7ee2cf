"""Masks of an iteration, made in a thread of their own while the forward runs: llguidance releases the GIL."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from flover.grammar.state import GrammarState

STACK_BYTES = 64 * 2**20
"""llguidance recurses as deep as a grammar does. Only what is used of it takes memory."""


class MaskThread:
    """Builds masks. Belongs to one thread, which starts a round and ends it before the next."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._round: Future[None] | None = None

    def start(self, states: Sequence[GrammarState]) -> None:
        """Begin to build the masks of these states, which nothing else may touch until `finish`."""
        self.finish()
        if not states:
            return
        if self._pool is None:
            self._pool = deep_thread("masks")
        self._round = self._pool.submit(_build_all, states)

    def finish(self) -> None:
        """Wait until they are built."""
        running, self._round = self._round, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """End the thread."""
        self.finish()
        if self._pool is not None:
            self._pool.shutdown()


def deep_thread(name: str) -> ThreadPoolExecutor:
    """One thread with a stack for grammars."""
    before = threading.stack_size(STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        pool.submit(int).result()  # the thread starts with its first work
    finally:
        threading.stack_size(before)
    return pool


def _build_all(states: Sequence[GrammarState]) -> None:
    for state in states:
        state.build()
