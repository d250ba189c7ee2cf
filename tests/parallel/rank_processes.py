"""The processes of ranks. Other tests of the same run may have children of their own."""

from __future__ import annotations

import psutil

ENGINE, FOLLOWER = "flover.service.process", "flover.parallel.follower"


def processes(module: str) -> list[psutil.Process]:
    """Descendants of this process that run a module."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if module in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found
