"""Threads for work on text (tokenizing, templates, large responses), off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

SHORT_THREADS = 2
LONG_CHARS = 2**16
"""Work on more characters than this runs in a separate thread, one at a time, so that short requests do not wait for
it."""
LONG_NICENESS = 5

T = TypeVar("T")


class TextThreads:
    """Threads of one server."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(SHORT_THREADS, thread_name_prefix="text")
        self._long = ThreadPoolExecutor(1, thread_name_prefix="long-text", initializer=_give_way)

    async def run(self, work: Callable[[], T], num_chars: int = 0) -> T:
        """Run `work`, whose time is proportional to `num_chars`."""
        threads = self._long if num_chars > LONG_CHARS else self._short
        return await asyncio.get_running_loop().run_in_executor(threads, work)

    def close(self) -> None:
        """Stop the threads after running work."""
        for threads in (self._short, self._long):
            threads.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Lower this thread's priority; on Linux each thread has its own."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LONG_NICENESS)
