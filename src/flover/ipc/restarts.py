"""How often and how soon an engine may be started again: restart intensity, as Erlang/OTP's supervisors have it, with
pauses that double. Pure: the time is passed in, and nothing is started."""

from __future__ import annotations

from collections import deque

MOST_RESTARTS = 3
WITHIN_SECONDS = 600.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
PATIENCE_SECONDS = 300.0
"""So long the machine may refuse to start a process, for want of descriptors, memory or processes."""


class RestartLimit:
    """At most `most` restarts within any `seconds`. What fails more often than that will not be mended by another."""

    def __init__(self, most: int = MOST_RESTARTS, seconds: float = WITHIN_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._times: deque[float] = deque()

    def count(self, now: float) -> None:
        """There was one at `now` (seconds of any steady clock)."""
        self._times.append(now)

    def recent(self, now: float) -> int:
        """How many there were within the last `seconds`."""
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        return len(self._times)

    def reached(self, now: float) -> bool:
        """Whether there may be no further one."""
        return self.recent(now) >= self._most


class Restarts:
    """The restarts of one engine. The first one comes at once; each further one within the limit's time after a pause,
    which doubles from one to the next and is bounded.

    An attempt that the machine refused, for want of descriptors, memory or processes, says nothing of the engine. It
    lengthens the pause and does not count against the limit; after `patience` seconds of nothing but refusals there
    are no further attempts.
    """

    def __init__(
        self,
        limit: RestartLimit | None = None,
        *,
        first: float = FIRST_PAUSE_SECONDS,
        longest: float = LONGEST_PAUSE_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._limit = limit or RestartLimit()
        self._first = first
        self._longest = longest
        self._patience = patience
        self._refusals = 0
        self._refused_since: float | None = None

    def pause(self, now: float) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        if self._limit.reached(now):
            return None
        if self._refused_since is not None and now - self._refused_since >= self._patience:
            return None
        attempts = self._limit.recent(now) + self._refusals
        pause = self._longest
        if attempts < 32:  # 2**31 is far beyond any pause
            pause = 0.0 if attempts == 0 else min(self._longest, self._first * 2.0 ** (attempts - 1))
        return pause

    def attempted(self, now: float) -> None:
        """An engine was started at `now`, whatever became of it."""
        self._limit.count(now)
        self._refusals, self._refused_since = 0, None

    def refused(self, now: float) -> None:
        """At `now` the machine had nothing left to start an engine with."""
        self._refusals += 1
        if self._refused_since is None:
            self._refused_since = now
