"""A Flover server as a child process during a benchmark."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from flover.errors import EngineError

STOP_SECONDS = 40.0
"""Time for a graceful stop, longer than the server's own shutdown timeout."""
GONE_SECONDS = 5.0
"""Time for the server's child processes to end after it."""
_URL = re.compile(r"http://[\w.\[\]:-]+:[1-9]\d*")


class ServerProcess:
    """`flover serve` with the given flags on a free port of 127.0.0.1. Use as a context manager.

    The server's output goes to a temporary file; its last lines are part of the error if the server does not start.
    While the server runs, SIGTERM ends this process through `SystemExit`, so that the server is stopped: enter it from
    the main thread. Raises `EngineError` if it is not ready within `patience` seconds or does not stop.
    """

    def __init__(self, flags: Sequence[str], patience: float = 300.0, poll: float = 0.05) -> None:
        self.command = [sys.executable, "-m", "flover", "serve", *flags, "--host", "127.0.0.1", "--port", "0"]
        self.url = ""
        self.started = self.listening = self.ready = 0.0
        """Times of the process start, of its address and of health, on `time.perf_counter`, to within `poll`."""
        self._patience = patience
        self._poll = poll

    def __enter__(self) -> ServerProcess:
        self._previous_handler = signal.signal(signal.SIGTERM, _leave)
        self._log = tempfile.TemporaryFile(mode="w+b")
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server and its child processes, and wait for them."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(timeout=STOP_SECONDS)
            left = not self._group_gone(within=GONE_SECONDS)
        except subprocess.TimeoutExpired:
            left = True
        if left:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        tail = self._tail()
        self._log.close()
        signal.signal(signal.SIGTERM, self._previous_handler)
        if left and kind is None:
            raise EngineError(f"the server did not stop on SIGTERM and was killed; its last output: {tail}")

    @property
    def pid(self) -> int:
        """Process id of the server, which is also its process group."""
        return self._process.pid

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise EngineError(f"the server ended with code {self._process.returncode}: {self._tail()}")
            if not self.url:
                self.url = self._announced_url()
                self.listening = time.perf_counter()
            if self.url and _answers(self.url + "/health"):
                self.ready = time.perf_counter()
                return
            time.sleep(self._poll)
        raise EngineError(f"the server was not ready after {self._patience:g} s: {self._tail()}")

    def _announced_url(self) -> str:
        match = _URL.search(self._output())
        return match[0] if match else ""

    def _output(self) -> str:
        return os.pread(self._log.fileno(), 2**20, 0).decode(errors="replace")

    def _tail(self) -> str:
        lines = self._output().strip().splitlines()
        return " | ".join(lines[-5:]) or "(no output)"

    def _group_gone(self, within: float) -> bool:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
