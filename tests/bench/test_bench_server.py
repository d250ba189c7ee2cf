"""Servers as child processes: they come up, they fail with their own words, and they are gone afterwards."""

import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from flover.bench.server import ServerProcess
from flover.errors import EngineError

FLAGS = ["--max-num-seqs=4", "--num-threads=1", "--kv-cache-memory-bytes=4MiB"]
STUBBORN = """
import http.server, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


def is_alive(pid: int) -> bool:
    """Is any process of the group left?"""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_comes_up_answers_and_is_gone_afterwards() -> None:
    with ServerProcess(FLAGS) as server:
        assert is_alive(server.pid)
        with urllib.request.urlopen(server.url + "/v1/models", timeout=10) as response:
            assert response.status == 200
    assert not is_alive(server.pid)


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(EngineError, match="/no/such/model"), ServerProcess(["--model=/no/such/model"]):
        pytest.fail("it must not come up")


def test_the_server_goes_when_the_body_raises() -> None:
    with pytest.raises(ZeroDivisionError), ServerProcess(FLAGS) as server:
        _ = 1 / 0
    assert not is_alive(server.pid)


def test_a_server_that_does_not_stop_is_killed_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flover.bench.server.STOP_SECONDS", 0.5)
    server = ServerProcess([])
    server.command = [sys.executable, "-c", STUBBORN]
    with pytest.raises(EngineError, match="was killed"), server:
        assert is_alive(server.pid)
    assert not is_alive(server.pid)


def test_a_server_that_never_gets_ready_is_given_up() -> None:
    server = ServerProcess([], patience=3.0)
    server.command = [sys.executable, "-c", "import time; print('still thinking', flush=True); time.sleep(60)"]
    with pytest.raises(EngineError, match=r"not ready after 3 s: still thinking"), server:
        pytest.fail("it must not come up")
    assert not is_alive(server.pid)


def test_sigterm_takes_the_server_along() -> None:
    code = (
        "from flover.bench.server import ServerProcess\nimport time\n"
        f"with ServerProcess({FLAGS!r}) as server:\n    print(server.pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        owner.send_signal(signal.SIGTERM)
        assert owner.wait(timeout=30) == 128 + signal.SIGTERM
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)
