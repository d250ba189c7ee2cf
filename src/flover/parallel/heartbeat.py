"""Signs of life between machines, for times when no collective tells: each rank counts up in the store that rank 0
keeps. That the store answers is rank 0's own sign."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from flover.errors import RankLostError

BEATS_PER_TIMEOUT = 6


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


def beat(store: Any, rank: int, timeout: float, end: Callable[[int], None] = os._exit) -> None:
    """Let this rank's heart beat from now on, and end the process when the store answers no more: rank 0 is gone."""
    answered = [time.monotonic()]

    def count() -> None:
        while True:
            try:
                store.add(_key(rank), 1)
            except RuntimeError:
                end(1)
            answered[0] = time.monotonic()
            time.sleep(timeout / BEATS_PER_TIMEOUT)

    def watch() -> None:  # a store that stands still answers nothing at all
        while time.monotonic() - answered[0] <= timeout:
            time.sleep(timeout / BEATS_PER_TIMEOUT)
        end(1)

    for work in (count, watch):
        threading.Thread(target=work, name=f"heart: {work.__name__}", daemon=True).start()


def _key(rank: int) -> str:
    return f"beats-{rank}"
