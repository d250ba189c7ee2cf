"""A model folder whose tokens are bytes, and servers on it."""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if shout %}!{% endif %}{% if add_generation_prompt %}a:{% endif %}"
)


def _byte_characters() -> list[str]:
    """How byte-level tokenizers write the bytes 0..255 (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids 0..255 are bytes, 256 is `<eos>`; the model of toy_engine.py."""
    folder = tmp_path_factory.mktemp("toy-model")
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    assert backend.encode("é<eos>").ids == [*"é".encode(), 256]
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 256, "temperature": 0.0}))
    return folder


class ServerProcess:
    """A server in its own process, ready unless `wait` is off."""

    def __init__(
        self,
        folder: Path,
        *toy_options: str,
        wait: bool = True,
        engine: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
    ) -> None:
        settings = {"engine": {"model": str(folder), **(engine or {})}, "server": server or {}}
        settings["server"].setdefault("served_model_name", ["toy"])
        script = str(Path(__file__).parent / "serve_toy.py")
        command = [sys.executable, script, json.dumps(settings), *toy_options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self.output: list[str] = []
        self.errors: list[str] = []
        for pipe, take in ((self.process.stdout, self._lines.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=self._pump, args=(pipe, take), daemon=True).start()
        found = re.search(r"http://\S+:\d+", self.expect("listening on"))
        assert found is not None
        self.url = found.group()
        self.http = httpx.Client(base_url=self.url, timeout=10)
        if wait:
            self.expect("ready:")

    @staticmethod
    def _pump(pipe: Any, take: Callable[[str], object]) -> None:
        for line in pipe:
            take(line)
        take("")

    def expect(self, text: str) -> str:
        """The next line of output that holds `text`."""
        deadline = time.monotonic() + 20
        while True:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
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
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.http.close()


@pytest.fixture
def start(model_folder: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers and ends them after the test."""
    servers: list[ServerProcess] = []

    def begin(*toy_options: str, **arguments: Any) -> ServerProcess:
        servers.append(ServerProcess(model_folder, *toy_options, **arguments))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(model_folder: Path) -> Iterator[ServerProcess]:
    """One server for all tests that leave it as it was."""
    running = ServerProcess(model_folder, "--delay", "0.002")
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    """The official client of the shared server."""
    return server.client()


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
