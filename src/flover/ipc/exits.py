"""The end of a process: when it comes, and in words its exit code, or the signal that killed it and what such a signal
most often means."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
from collections.abc import Callable

from flover.errors import OutOfResourcesError

_MEANINGS = {
    signal.SIGKILL: "by the kernel if the machine ran out of memory (its log says so), else by somebody's command",
    signal.SIGILL: "it ran an instruction that this processor does not have; --cpu-isa portable avoids it",
    signal.SIGBUS: "a file that it had mapped was cut short, or shared memory (/dev/shm) is full",
    signal.SIGSEGV: "a fault in compiled code",
    signal.SIGABRT: "a library gave up; its last words are on stderr",
}


def describe_exit(code: int) -> str:
    """What became of a process with this `returncode` of `subprocess` (negative: a signal), as the end of a sentence
    that begins with its name."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"was killed by signal {-code}"
    meaning = _MEANINGS.get(number)
    return f"was killed by signal {-code} ({number.name})" + (f": {meaning}" if meaning else "")


class WatchedProcess:
    """A process whose end is heard of in the running event loop, whoever may still hold its end of a socket."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.exited = asyncio.Event()
        self.on_exit: Callable[[], None] = lambda: None
        """Called in the loop when the process has ended."""
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._killed_for: str | None = None

    def watch(self) -> None:
        """Listen for its end, in a thread of its own. Raises `OutOfResourcesError` if there can be no such thread."""
        try:
            threading.Thread(target=self._wait, name="engine-watch", daemon=True).start()
        except RuntimeError as error:
            self.exited.set()  # nobody will say so
            raise OutOfResourcesError(f"the engine cannot be watched: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self, reason: str | None = None) -> None:
        """End it now; `reason` is what `reason` says then."""
        self._killed_for = self._killed_for or reason
        self._process.kill()

    async def wait(self, seconds: float) -> None:
        """Wait for its end, so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), seconds)

    @property
    def reason(self) -> str:
        """Why there is no news of it any more, as a sentence."""
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
        self.on_exit()
