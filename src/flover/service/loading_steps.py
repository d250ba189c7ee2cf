"""The progress of loading, in few messages."""

from __future__ import annotations

from collections.abc import Callable

from flover.ipc.messages import Loading

STEPS = 25


class LoadingSteps:
    """Called with what is done, of how much, and of what; sends a message at each step: the server may read later, and
    a socket holds 70 frames on some systems."""

    def __init__(self, send: Callable[[Loading], None]) -> None:
        self._send = send
        self._sent = "", -1

    def __call__(self, done: int, total: int, counted: str = "") -> None:
        step = counted, STEPS * done // max(1, total)
        if step != self._sent:
            self._sent = step
            self._send(Loading(done, total, counted))
