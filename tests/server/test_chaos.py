"""Faults from outside, in each phase of a server's life: whatever is killed, stopped or full, an answer is right or
visibly no answer, and nothing is left behind. `make chaos` repeats it with faults at random times."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.servers import ServerProcess, read_events, wait_gone
from test_exit_truth import looks_finished
from toy_engine import toy_tokens

from flover.server.run import EXIT_NO_ENGINE

pytestmark = [pytest.mark.alone, pytest.mark.long]

Start = Callable[..., ServerProcess]
PHASES = ("loading", "idle", "prefill", "generate")
FAULTS = (
    *("kill the engine", "kill the server", "stop the engine", "stop the server"),
    *("terminate", "terminate twice", "interrupt", "hang up"),
)
SIGNALS = {"terminate": signal.SIGTERM, "interrupt": signal.SIGINT, "hang up": signal.SIGHUP}
STALL_SECONDS = 1.0
PROMPTS = {"prefill": "abcdefgh" * 150, "generate": "abc"}
MAX_TOKENS = {"prefill": 60, "generate": 250}


class Client(threading.Thread):
    """One request, whole or streamed; `text` is all that came."""

    def __init__(self, server: ServerProcess, phase: str, stream: bool) -> None:
        super().__init__()
        self.stream, self.status, self.text = stream, 0, ""
        self._url = f"{server.url}/v1/completions"
        self._body = {"prompt": PROMPTS[phase], "max_tokens": MAX_TOKENS[phase], "stream": stream}
        self.wanted = bytes(toy_tokens(list(PROMPTS[phase].encode()), MAX_TOKENS[phase])).decode()
        self.start()

    def run(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=40) as answer:
                self.status = answer.status_code
                for text in answer.iter_text():
                    self.text += text
        except httpx.HTTPError:
            return

    def ended(self) -> None:
        self.join(45)
        assert not self.is_alive(), "an answer never ends"

    def check_right(self) -> None:
        """It has its whole answer."""
        self.ended()
        assert self.status == 200, (self.status, self.text)
        if self.stream:
            *events, last = read_events(self.text)
            assert last == "[DONE]" and not any("error" in event for event in events), self.text[-500:]
            pieces = [choice["text"] for event in events for choice in event["choices"]]
            assert "".join(pieces) == self.wanted
        else:
            assert json.loads(self.text)["choices"][0]["text"] == self.wanted

    def check_truthful(self) -> None:
        """It has its whole answer, or what looks like none."""
        self.ended()
        if self.stream and looks_finished(self.text):
            self.check_right()
        elif not self.stream and self.status == 200 and self.text:
            try:
                json.loads(self.text)
            except ValueError:
                return
            self.check_right()


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """When the faults of each round come."""
    return (random.Random(seed) for seed in range(request.config.getoption("--chaos-rounds")))


def reach(server: ServerProcess, phase: str) -> list[Client]:
    """Bring a server into a phase, with its clients."""
    if phase == "loading":
        server.until(lambda: bool(psutil.Process(server.process.pid).children()))
        return []
    server.expect("ready:")
    if phase == "idle":
        return []
    clients = [Client(server, phase, stream) for stream in (True, True, False)]
    server.until(lambda: server.metric("num_requests_running") == len(clients))
    if phase == "generate":
        server.until(lambda: server.metric("generation_tokens_total") > 20)
    return clients


def send(server: ServerProcess, fault: str) -> None:
    process, engine = server.process, server.engine
    match fault:
        case "kill the engine":
            engine.kill()
        case "kill the server":
            process.kill()
        case "stop the engine" | "stop the server":
            who = engine.pid if fault.endswith("engine") else process.pid
            os.kill(who, signal.SIGSTOP)
            time.sleep(2.5 * STALL_SECONDS)
            with contextlib.suppress(ProcessLookupError):  # a silent engine is killed
                os.kill(who, signal.SIGCONT)
        case "terminate" | "interrupt" | "hang up":
            process.send_signal(SIGNALS[fault])
        case "terminate twice":
            process.send_signal(signal.SIGTERM)
            server.expect("shutting down")
            process.send_signal(signal.SIGTERM)


def expect_code(server: ServerProcess, phase: str, fault: str) -> int | None:
    """The exit code of a server that the fault ends; None if it goes on."""
    if fault == "kill the server":
        return -signal.SIGKILL
    if fault in SIGNALS or fault == "terminate twice":
        return 0
    return 1 if (fault, phase) == ("kill the engine", "loading") else None


def trial(start: Start, rng: random.Random, fault: str, phase: str) -> None:
    options = ("--delay", "0.01", "--load-delay", "0.3" if phase == "loading" else "0")
    settings = {"stall_timeout": STALL_SECONDS, "shutdown_timeout": 20}
    server = start(*options, wait=False, server=settings, engine={"max_num_batched_tokens": 64})
    clients = reach(server, phase)
    time.sleep(rng.random() * (1.0 if rng.random() < 0.5 else 0.1))
    ours = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    send(server, fault)
    code = expect_code(server, phase, fault)
    if code is None:
        ends = phase != "loading" and fault.endswith("the engine")
        server.until(lambda: server.http.get("/readyz").status_code == 200, 30)
        server.until(lambda: server.metric("engine_restarts_total") == ends, 30)
        for client in clients:
            client.check_right()
        again = server.post("/v1/completions", {"prompt": "abc", "max_tokens": 5})
        assert again.json()["choices"][0]["text"] == "abcab"
        server.until(lambda: server.metric("num_requests_running") == 0)
        ours += psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop() == 0
    else:
        assert server.process.wait(30) in (code, EXIT_NO_ENGINE if code == 1 else code), server.errors
        for client in clients:
            client.check_right() if fault in SIGNALS else client.check_truthful()
    for process in ours:
        wait_gone(process)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_each_phase(
    start: Start,
    rounds: Iterator[random.Random],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    phase: str,
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for rng in rounds:
        trial(start, rng, fault, phase)
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_no_server(start: Start, tmp_path: Path) -> None:
    """Its log goes nowhere; the file of usage takes a part of a line, then nothing, then lines again."""
    usage = tmp_path / "usage.jsonl"
    server = start("--delay", "0", server={"usage_log": str(usage)})
    body: dict[str, Any] = {"prompt": "abc", "max_tokens": 3}
    assert server.post("/v1/completions", body).status_code == 200
    server.until(lambda: usage.exists() and usage.read_bytes().endswith(b"\n"))
    size = usage.stat().st_size
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))
    for _ in range(3):
        assert server.post("/v1/completions", body).status_code == 200
    server.until(lambda: sum("cannot be written" in line for line in server.errors) == 3)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert server.post("/v1/completions", body).status_code == 200
    assert server.stop() == 0
    first, cut, *later = usage.read_text().splitlines()
    assert json.loads(first)["status"] == 200
    with pytest.raises(ValueError, match=r"."):
        json.loads(cut)
    assert json.loads(later[0])["lines_lost_before"] == 3 and len(later) == 1


def test_a_reader_of_the_output_that_is_gone_ends_no_server(model_folder: Path) -> None:
    settings = {"engine": {"model": str(model_folder)}, "server": {"served_model_name": ["toy"]}}
    command = [sys.executable, str(Path(__file__).parent / "serve_toy.py"), json.dumps(settings)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None and server.stderr is not None
    url = next(word for word in server.stdout.readline().split() if word.startswith("http")).rstrip(",")
    server.stdout.close()
    server.stderr.close()
    try:
        deadline = time.monotonic() + 20
        while httpx.get(f"{url}/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        answer = httpx.post(f"{url}/v1/completions", json={"prompt": "abc", "max_tokens": 3})
        assert answer.json()["choices"][0]["text"] == "abc"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    finally:
        server.kill()


def test_a_full_disk_fails_a_batch_and_nothing_else(start: Start) -> None:
    server = start("--delay", "0")
    body = {"model": "toy", "prompt": "abc", "max_tokens": 3}
    asked = [{"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body} for i in range(30)]
    sent = {"file": ("a.jsonl", "\n".join(map(json.dumps, asked)).encode())}

    def disk(room: int) -> None:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    def ended(batch: Any) -> Any:
        path = f"/v1/batches/{batch['id']}"
        server.until(lambda: server.http.get(path).json()["status"] in ("failed", "completed"))
        return server.http.get(path).json()

    disk(1000)
    assert server.http.post("/v1/files", files=sent, data={"purpose": "batch"}).status_code == 503
    disk(resource.RLIM_INFINITY)
    file = server.http.post("/v1/files", files=sent, data={"purpose": "batch"}).json()["id"]
    order = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
    disk(1000)
    failed = ended(server.post("/v1/batches", order).json())
    assert failed["status"] == "failed" and failed["errors"]["data"]
    assert server.post("/v1/completions", body).status_code == 200
    disk(resource.RLIM_INFINITY)
    assert ended(server.post("/v1/batches", order).json())["request_counts"] == {
        "total": 30,
        "completed": 30,
        "failed": 0,
    }
    assert server.stop() == 0
