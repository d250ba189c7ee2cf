"""Signs of life between machines, for times when no collective tells: each rank counts up in the store that rank 0
keeps. That the store answers is rank 0's own sign."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from flover.errors import RankLostError

BEATS_PER_TIMEOUT = 6
LEFT = -(2**62)
"""What a rank that leaves in order adds to its count: it is below 0 from then on."""
POLL_SECONDS = 0.02


class HeartbeatMonitor:
    """Rank 0's side. A rank whose count has not grown for `timeout` seconds is dead; so is one that never began."""

    def __init__(
        self, store: Any, ranks: Iterable[int], timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._timeout = timeout
        self._clock = clock
        self._next = 0.0
        self._heard = {rank: (0, clock()) for rank in ranks}  # count, and when it came

    def check(self) -> None:
        """Raises `RankLostError` if a rank says nothing any more. Looks only now and then: call it at any rate."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._timeout / BEATS_PER_TIMEOUT
        for rank, (count, at) in self._heard.items():
            new = self._store.add(_key(rank), 0)
            if new != count:
                self._heard[rank] = new, now
            elif now - at > self._timeout:
                raise RankLostError(f"rank {rank} has said nothing for {now - at:.0f} s")

    def wait_left(self, seconds: float) -> None:
        """Until all ranks have said that they leave in order, or for so many seconds. The store must live as long: a
        rank that finds it gone before it has read the end of its plans takes rank 0 for lost."""
        until = self._clock() + seconds
        while any(self._store.add(_key(rank), 0) >= 0 for rank in self._heard) and self._clock() < until:
            time.sleep(POLL_SECONDS)


def beat(
    store: Any, rank: int, timeout: float, patience: Callable[[], float], end: Callable[[int], None] = os._exit
) -> Callable[[], None]:
    """Let this rank's heart beat from now on, often enough for `timeout`, and end the process when the store has not
    answered for `patience()` seconds: rank 0 is gone. Returns what to call when this rank leaves in order: from then on
    rank 0 may go."""
    answered = [time.monotonic()]
    leaving = threading.Event()

    def lost() -> None:
        if not leaving.is_set():
            end(1)

    def count() -> None:
        while not leaving.is_set():
            try:
                store.add(_key(rank), 1)
            except RuntimeError:
                lost()
            answered[0] = time.monotonic()
            leaving.wait(timeout / BEATS_PER_TIMEOUT)

    def watch() -> None:  # a store that stands still answers nothing at all
        while time.monotonic() - answered[0] <= patience():
            if leaving.wait(timeout / BEATS_PER_TIMEOUT):
                return
        lost()

    def leave() -> None:
        leaving.set()
        with contextlib.suppress(RuntimeError):  # rank 0 has waited long enough
            store.add(_key(rank), LEFT)

    for work in (count, watch):
        threading.Thread(target=work, name=f"heart: {work.__name__}", daemon=True).start()
    return leave


def _key(rank: int) -> str:
    return f"beats-{rank}"
