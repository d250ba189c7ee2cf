"""A process that this one has started: whether it runs, its end, and the reason of its end."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable

from flover.errors import OutOfResourcesError
from flover.ipc.exits import describe_exit


class ChildProcess:
    """A handle on a process, for the running event loop. `on_exit` is called in the loop when the process has ended,
    even if a child of its own still holds its sockets open."""

    def __init__(self, process: subprocess.Popen[bytes], on_exit: Callable[[], None]) -> None:
        self.exited = asyncio.Event()
        self._process = process
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._killed_for: str | None = None

    def watch(self) -> None:
        """Wait for its end in a thread. Raises `OutOfResourcesError` if no thread can be started."""
        try:
            threading.Thread(target=self._wait, name="engine-watch", daemon=True).start()
        except RuntimeError as error:
            self.exited.set()  # no thread will set it
            raise OutOfResourcesError(f"the engine cannot be watched: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self, reason: str | None = None) -> None:
        """End it now; the first `reason` given is the one that `reason` reports."""
        self._killed_for = self._killed_for or reason
        self._process.kill()

    async def wait(self, seconds: float) -> None:
        """Wait for its end, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), seconds)

    async def close(self, seconds: float) -> None:
        """Wait for its end; after `seconds` kill it and wait."""
        await self.wait(seconds)
        if not self.exited.is_set():
            self._process.kill()
            await self.exited.wait()

    @property
    def reason(self) -> str:
        """Why it sends nothing any more, as a sentence."""
        if self._killed_for is not None:
            return f"the engine was ended: {self._killed_for}"
        code = self._process.returncode
        return f"the engine process {'closed its connection' if code is None else describe_exit(code)}"

    def _wait(self) -> None:
        self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop was closed first
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        self.exited.set()
        self._on_exit()
