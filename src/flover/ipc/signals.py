"""What the other processes of a server do with signals that end it."""

from __future__ import annotations

import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They reach every process of a terminal or a service. The server decides what they mean, and its other processes have
to live on while open requests finish."""


def leave_to_the_server() -> None:
    """Ignore them."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
