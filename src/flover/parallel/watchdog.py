"""Ends collectives on a GPU that a rank has not joined: their kernels would wait for ever, and the host with them.

As NCCL's watchdog in torch does it, but for captured collectives too: what the device has been asked for has to be done
within a timeout, and while it is not, whether a process has ended is asked for. If so the communicator is aborted: its
kernels end, and so does the host's wait for them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from flover.errors import RankLostError

POLL_SECONDS = 0.1


class Watchdog:
    """A thread that looks now and then. `abort` ends the collectives; `timeout` gives the seconds they may take."""

    def __init__(
        self,
        abort: Callable[[], None],
        timeout: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.problem: str | None = None
        """Why collectives were aborted."""
        self._abort = abort
        self._timeout = timeout
        self._clock = clock
        self._check: Callable[[], None] = lambda: None
        self._launched: deque[tuple[float, Callable[[], bool]]] = deque()
        self._closed = threading.Event()
        threading.Thread(target=self._run, args=(poll_seconds,), name="watchdog", daemon=True).start()

    def watch(self, check: Callable[[], None]) -> None:
        """`check` raises `RankLostError` when a rank has ended."""
        self._check = check

    def launched(self, done: Callable[[], bool]) -> None:
        """A collective, with `done` to ask for its end."""
        self._launched.append((self._clock(), done))

    def look(self) -> None:
        """Once; after a problem never again."""
        while self._launched and self._launched[0][1]():
            self._launched.popleft()
        if not self._launched or self.problem is not None:
            return
        seconds = self._clock() - self._launched[0][0]
        try:
            self._check()
            if seconds > self._timeout():
                raise RankLostError(f"a rank does not answer: a collective has taken more than {self._timeout():g} s")
        except RankLostError as error:
            self.problem = str(error)
            self._abort()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _run(self, poll_seconds: float) -> None:
        while not self._closed.wait(poll_seconds):
            self.look()
