"""A server on the toy engine in a process of its own, requests to it in the background, and what it answers."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

COMPLETION = {"prompt": "abc"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
LONG: dict[str, Any] = {"prompt": "abc", "max_tokens": 2000}


class ServerProcess:
    """A server in its own process, ready unless `wait` is off: of the toy engine, or what `command` starts."""

    def __init__(
        self,
        folder: Path,
        *toy_options: str,
        wait: bool = True,
        engine: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        command: list[str] | None = None,
    ) -> None:
        settings = {"engine": {"model": str(folder), **(engine or {})}, "server": server or {}}
        settings["server"].setdefault("served_model_name", ["toy"])
        script = str(Path(__file__).parents[1] / "server" / "serve_toy.py")
        command = command or [sys.executable, script, json.dumps(settings), *toy_options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self.output: list[str] = []
        self.errors: list[str] = []
        for pipe, take in ((self.process.stdout, self._lines.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=self._pump, args=(pipe, take), daemon=True).start()
        try:
            found = re.search(r"https?://\S+:\d+", self.expect("listening on"))
            assert found is not None
            self.url = found.group()
            self.http = httpx.Client(base_url=self.url, timeout=10)
            if wait:
                self.expect("ready:")
        except BaseException:  # no test gets it to stop it
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._end()
            raise

    @staticmethod
    def _pump(pipe: Any, take: Callable[[str], object]) -> None:
        for line in pipe:
            take(line)
        take("")

    def expect(self, text: str) -> str:
        """The next line of output that holds `text`."""
        deadline = time.monotonic() + 20
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} came: {self.output} {''.join(self.errors)}") from None
            assert line, f"the server ended: {''.join(self.errors)}"
            self.output.append(line)
            if text in line:
                return line

    @property
    def engine(self) -> psutil.Process:
        """The engine process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def client(self) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=10)

    def post(self, path: str, body: Any) -> httpx.Response:
        """POST as JSON, in ASCII: lone surrogates pass."""
        return self.http.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        for line in self.http.get("/metrics").text.splitlines():
            series, _, value = line.rpartition(" ")
            if re.match(rf"flover:{name}(\{{|$)", series) and all(label in series for label in wanted):
                return float(value)
        raise AssertionError(f"there is no metric {name}")

    def until(self, condition: Callable[[], bool], seconds: float = 15.0) -> None:
        """Wait for a condition to come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, if it still runs; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self._end()
        finally:
            self.http.close()

    def _end(self) -> int:
        """The exit code, after ten seconds at most; its engine ends with it."""
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()


class Background:
    """A request in a thread of its own."""

    def __init__(self, server: ServerProcess, body: dict[str, Any]) -> None:
        self.answer: httpx.Response | None = None
        self._thread = threading.Thread(target=self._run, args=(server.url, body))
        self._thread.start()

    def _run(self, url: str, body: dict[str, Any]) -> None:
        self.answer = httpx.post(f"{url}/v1/completions", json=body, timeout=20)

    def result(self) -> httpx.Response:
        self._thread.join(20)
        assert self.answer is not None
        return self.answer


def running(server: ServerProcess, count: int) -> None:
    server.until(lambda: server.metric("num_requests_running") == count)


def wait_gone(process: psutil.Process, seconds: float = 10.0) -> None:
    """Wait until a process runs no more; whether somebody has collected its exit code is not its affair."""
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {process.pid} is still there"
        time.sleep(0.02)


def read_events(text: str) -> list[Any]:
    """Parse a stream of events strictly: every event is `data: ` and JSON on one line, then an empty line."""
    assert text.endswith("\n\n")
    events = []
    for block in text[:-2].split("\n\n"):
        assert block.startswith("data: ") and "\n" not in block, block
        payload = block.removeprefix("data: ")
        events.append("[DONE]" if payload == "[DONE]" else json.loads(payload))
    return events


def refused(answer: httpx.Response, status: int = 400, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The error of an answer, after a look at its form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["type"] == kind
    assert body["error"]["message"]
    assert "Traceback" not in answer.text and "object at 0x" not in answer.text
    return body["error"]  # type: ignore[no-any-return]
