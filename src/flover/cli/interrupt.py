"""Ctrl-C ends a command with 130 and no traceback, whenever it comes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130
"""128 + SIGINT, as shells report programs ended by it."""


def end_at_once() -> None:
    """Until `raise_from_here`, Ctrl-C ends the process: an exception inside an import can get lost, or become another.
    Where the signal is ignored or handled already, nothing changes."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_from_here() -> None:
    """Ctrl-C raises `KeyboardInterrupt`, and ends the process where Python would drop that: in a callback, in a
    finalizer. Nothing changes unless `end_at_once` was called."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _end_if_interrupted


@contextlib.contextmanager
def native_imports() -> Iterator[None]:
    """Imports of native code, which drops an exception or is aborted by it: inside, Ctrl-C ends the process."""
    end_at_once()
    try:
        yield
    finally:
        raise_from_here()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _end_if_interrupted(dropped: Any) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(dropped)
