"""kill -9 of each process of a server whose model two ranks share, in each phase: clients get every token once, and
nobody is left behind. Times to the next token are reported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

SERVE = [
    *(sys.executable, "-m", "flover", "serve", "--port=0", "--tensor-parallel-size=2", "--num-threads=1"),
    *("--kv-cache-memory-bytes=32MiB", "--distributed-timeout-seconds=5"),
]
STORY: dict[str, Any] = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 250, "ignore_eos": True}
CONSTRAINED = {**STORY, "ignore_eos": False, "structured_outputs": {"regex": "[A-Za-z ,.]{1000,}"}}
BODIES = (STORY, STORY, CONSTRAINED)
pytestmark = pytest.mark.long
Record = Callable[[str, object], None]


class Server:
    """`flover serve` and all its processes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(SERVE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = next(word for word in self.process.stdout.readline().split() if "http" in word).rstrip(",")
        self.seen: set[psutil.Process] = set()
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        assert self.process.stderr is not None
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def role(self, role: str) -> psutil.Process | None:
        """The process of rank 0 or 1, if it is there."""
        module = {"rank 0": "flover.service.process", "rank 1": "flover.parallel.follower"}[role]
        found = None
        for process in psutil.Process(self.process.pid).children(recursive=True):
            self.seen.add(process)
            if module in process.cmdline():
                found = process
        return found

    def kill(self, role: str) -> float:
        """kill -9; the time of it."""
        self.until(lambda: self.role(role) is not None)
        process = self.role(role)
        assert process is not None
        process.kill()
        return time.monotonic()

    def until(self, condition: Callable[[], bool], seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.05)

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    try:
        yield made
    finally:
        made.process.kill()
        _, alive = psutil.wait_procs(list(made.seen), timeout=15)
        assert not alive, "killing the door ends everybody"


class Story(threading.Thread):
    """A streamed completion; `pieces` are its texts and when they came."""

    def __init__(self, url: str, body: dict[str, Any] = STORY) -> None:
        super().__init__()
        self.url = url
        self.body = {**body, "stream": True}
        self.pieces: list[tuple[float, str]] = []
        self.last = ""
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", f"{self.url}/v1/completions", json=self.body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line:
                    self.last = line
                if line.startswith("data: {"):
                    self.pieces.append((time.monotonic(), json.loads(line[6:])["choices"][0]["text"]))

    def whole(self) -> str:
        self.join(60)
        assert self.last == "data: [DONE]", self.last
        return "".join(text for _, text in self.pieces)


@pytest.mark.parametrize("role", ["rank 0", "rank 1"])
def test_requests_survive_the_death_of_a_rank_in_each_phase(server: Server, role: str, record_property: Record) -> None:
    server.until(server.healthy)
    stories = [Story(server.url, body) for body in BODIES]
    undisturbed = [story.whole() for story in stories]

    if role == "rank 0":
        killed = server.kill(role)
        server.until(lambda: not server.healthy())
        server.until(server.healthy)
        record_property(f"{role} killed while idle: healthy again, s", time.monotonic() - killed)
    else:
        story = Story(server.url, BODIES[0])
        server.until(lambda: len(story.pieces) > 10)
        rank, stopped = server.role(role), time.monotonic()
        assert rank is not None
        rank.send_signal(signal.SIGSTOP)
        assert story.whole() == undisturbed[0]
        later = min(at for at, _ in story.pieces if at > stopped + 0.5)
        record_property(f"{role} stopped (timeout 5 s): next token, s", later - stopped)

    stories = [Story(server.url, body) for body in BODIES]
    server.until(lambda: all(len(story.pieces) > 10 for story in stories))
    killed = server.kill(role)
    assert [story.whole() for story in stories] == undisturbed
    later = min(at for story in stories for at, _ in story.pieces if at > killed + 0.5)
    record_property(f"{role} killed while generating: next token, s", later - killed)

    stories = [Story(server.url, body) for body in BODIES]
    server.until(lambda: all(story.pieces for story in stories))
    server.process.send_signal(signal.SIGTERM)
    killed = server.kill(role)
    assert [story.whole() for story in stories] == undisturbed
    record_property(f"{role} killed while the server drains: all answered, s", time.monotonic() - killed)
    assert server.process.wait(40) == 0


@pytest.mark.parametrize("role", ["rank 0", "rank 1"])
def test_a_rank_that_dies_while_the_model_loads_fails_the_start(server: Server, role: str) -> None:
    server.kill(role)
    assert server.process.wait(40) == 1
