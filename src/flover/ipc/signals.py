"""What the other processes of a server do with signals that end it."""

from __future__ import annotations

import signal


def leave_to_the_server() -> None:
    """Ignore them. Signals for the terminal or the service reach every process of it. The server decides what they
    mean, and its other processes have to live on while open requests finish."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
