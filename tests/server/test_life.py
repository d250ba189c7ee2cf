"""From start to end of the server, and what happens when the engine or the server dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from support.servers import LONG, Background, ServerProcess, read_events, running, wait_gone

from flover.config import EngineConfig, ServerConfig
from flover.errors import ConfigError
from flover.server.run import EXIT_NO_ENGINE, serve

Start = Callable[..., ServerProcess]


def test_health_is_answered_while_the_model_loads(start: Start) -> None:
    server = start("--load-delay", "1.5", wait=False)
    answer = server.http.get("/health")
    assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
    refused = server.post("/v1/completions", {"prompt": "abc", "stop": "x"})
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "service_unavailable")
    assert refused.headers["retry-after"]
    assert server.post("/tokenize", {"prompt": "abc"}).status_code == 503
    for path in ("/v1/models", "/v1/models/toy", "/models", "/version", "/nothing"):
        refused = server.http.get(path)
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the model is being loaded"), path
        assert refused.headers["retry-after"]
    for path in ("/livez", "/metrics", "/dashboard", "/openapi.json"):
        assert server.http.get(path).status_code == 200, path
    for path in ("/readyz", "/healthz", "/ping"):
        assert server.http.get(path).json() == {"status": "loading"}, path
    line = server.expect("ready:")
    assert all(fact in line for fact in (server.url, "toy", "int", "4096"))
    curl = server.expect("curl")
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "toy"
    assert server.http.get("/health").status_code == 200
    shown = subprocess.run(["bash", "-c", curl.replace("curl", "curl -sS")], capture_output=True, text=True, timeout=10)
    assert '"text_completion"' in shown.stdout, shown


def test_a_signal_while_loading_ends_the_server(start: Start) -> None:
    server = start("--load-delay", "60", wait=False)
    server.until(lambda: bool(psutil.Process(server.process.pid).children()))
    engine = server.engine
    assert server.stop() == 0
    assert not engine.is_running()


def test_a_model_that_does_not_load_ends_the_server(start: Start) -> None:
    server = start("--fail", "model", wait=False)
    assert server.process.wait(10) == 1
    server.until(lambda: "" in server.errors)
    assert server.errors[-2].strip() == "flover.errors.ModelError: as asked"


def test_strangers_are_let_in_only_with_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", ""):
        with pytest.raises(ConfigError, match="--api-key"):
            serve(EngineConfig(), ServerConfig(host=host))


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            serve(EngineConfig(), ServerConfig(port=port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_open_requests_finish_and_takes_no_new_ones(start: Start, number: int) -> None:
    """SIGHUP reaches each process of a terminal, and more than once."""
    server = start("--delay", "0.005")
    stream = Background(server, {**LONG, "max_tokens": 200, "stream": True})
    whole = Background(server, {**LONG, "max_tokens": 200})
    running(server, 2)
    server.process.send_signal(number)
    server.expect("shutting down")
    if number == signal.SIGHUP:
        os.kill(server.engine.pid, number)
        server.process.send_signal(number)
    refused = server.post("/v1/completions", LONG)
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the server is shutting down")
    assert server.http.get("/health").json() == {"status": "shutting down"}
    assert len(whole.result().json()["choices"][0]["text"]) == 200
    assert read_events(stream.result().text)[-1] == "[DONE]"
    engine = server.engine if server.process.poll() is None else None
    assert server.process.wait(5) == 0
    assert engine is None or not engine.is_running()


def test_under_nohup_the_end_of_the_terminal_ends_nothing(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    server.process.send_signal(signal.SIGHUP)
    assert server.http.get("/readyz").status_code == 200 and server.stop() == 0


@pytest.mark.parametrize("how", ["the time is up", "a second signal"])
def test_requests_that_do_not_finish_are_ended_visibly(start: Start, how: str) -> None:
    server = start("--delay", "0.02", server={"shutdown_timeout": 0.3 if how == "the time is up" else 30})
    stream, whole = Background(server, {**LONG, "stream": True}), Background(server, LONG)
    running(server, 2)
    engine = server.engine
    server.process.send_signal(signal.SIGTERM)
    if how == "a second signal":
        server.expect("shutting down")
        server.process.send_signal(signal.SIGINT)
    *chunks, last, done = read_events(stream.result().text)
    assert last["error"]["message"] == "the server is shutting down"
    assert done == "[DONE]"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert whole.result().status_code == 503
    assert server.process.wait(5) == 0
    assert not engine.is_running()


def test_when_the_engine_dies_for_good_streams_end_with_an_error_and_health_says_so(
    start: Start, tmp_path: Path
) -> None:
    server = start("--delay", "0.005", "--once", str(tmp_path / "loaded"))
    streams = [Background(server, {**LONG, "stream": True}) for _ in range(5)]
    whole = Background(server, LONG)
    running(server, 6)
    server.engine.kill()
    for stream in streams:
        *events, last, done = read_events(stream.result().text)
        assert (last.keys(), done) == ({"error"}, "[DONE]")
        assert all(event["choices"][0]["finish_reason"] is None for event in events)
    assert whole.result().status_code == 503
    assert server.process.wait(20) == EXIT_NO_ENGINE


def test_when_the_server_dies_the_engine_dies(start: Start) -> None:
    server = start("--delay", "0.005")
    engine = server.engine
    stream = threading.Thread(target=lambda: _ignore_errors(server))
    stream.start()
    running(server, 1)
    os.kill(server.process.pid, signal.SIGKILL)
    wait_gone(engine)
    stream.join(5)


def _ignore_errors(server: ServerProcess) -> None:
    try:
        httpx.post(f"{server.url}/v1/completions", json=LONG, timeout=10)
    except httpx.HTTPError:
        return


def test_more_requests_than_may_be_open_are_sent_away(start: Start) -> None:
    server = start("--delay", "0.01", server={"max_num_queued_reqs": 3})
    first = Background(server, {**LONG, "prompt": ["abc", "def"], "max_tokens": 100})
    running(server, 2)
    answer = server.post("/v1/completions", {**LONG, "prompt": ["abc", "def"]})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) > 0
    assert server.post("/v1/completions", {"prompt": "abc", "max_tokens": 1}).status_code == 200
    assert server.post("/v1/completions", {"prompt": "", "max_tokens": 1}).status_code == 400
    assert server.post("/v1/completions", {"prompt": ["a"] * 4}).json()["error"]["param"] == "prompt"
    assert first.result().status_code == 200
    assert server.post("/v1/completions", {"prompt": ["a"] * 3, "max_tokens": 1}).status_code == 200
    assert server.metric("requests_rejected_total") == 1


def test_the_server_imports_no_torch() -> None:
    heavy = ("torch", "llguidance", "flover.memory", "flover.ops")
    code = f"import sys, flover.server.run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    sources = Path(sys.modules["flover.server.run"].__file__ or "").parent.glob("*.py")
    assert not [path.name for path in sources if "import torch" in path.read_text()]
