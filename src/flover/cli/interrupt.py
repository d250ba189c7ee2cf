"""Ctrl-C ends a command with 130 and no traceback, whenever it comes."""

from __future__ import annotations

import _frozen_importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

INTERRUPTED = 130
"""128 + SIGINT, as shells report programs ended by it."""


def end_at_once() -> None:
    """Until `raise_from_here`, Ctrl-C ends the process: an exception inside an import can get lost, become another, or
    abort native code. Where the signal is ignored or handled already, nothing changes."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _raise):
        signal.signal(signal.SIGINT, _end)


def raise_from_here() -> None:
    """Ctrl-C raises `KeyboardInterrupt`, and ends the process where that would be dropped: in an import, in a callback,
    in a finalizer. Nothing changes unless `end_at_once` was called."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _raise)
        sys.unraisablehook = _end_if_interrupted


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _raise(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if frame.f_globals is vars(_frozen_importlib):
            _end(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt


def _end_if_interrupted(dropped: Any) -> None:
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(dropped)
