"""How often an engine may be begun again: restart intensity, as Erlang/OTP's supervisors have it."""

from __future__ import annotations

from collections import deque

MOST_RESTARTS = 3
WITHIN_SECONDS = 600.0


class RestartLimit:
    """At most `most` restarts within any `seconds`. What fails more often than that will not be mended by another."""

    def __init__(self, most: int = MOST_RESTARTS, seconds: float = WITHIN_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._times: deque[float] = deque()

    def allow(self, now: float) -> bool:
        """Whether one more may be at `now` (seconds of any steady clock); it counts if so."""
        while self._times and now - self._times[0] >= self._seconds:
            self._times.popleft()
        if len(self._times) >= self._most:
            return False
        self._times.append(now)
        return True
