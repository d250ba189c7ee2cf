"""A server whose descriptors have all been taken by connections."""

from __future__ import annotations

import re
import resource
import socket
from collections.abc import Callable

import httpx
import psutil
from support.servers import ServerProcess


def test_connections_that_take_all_descriptors_do_not_keep_an_engine_from_starting(
    start: Callable[..., ServerProcess],
) -> None:
    server = start()
    assert server.http.get("/health").status_code == 200  # this connection stays open
    used = psutil.Process(server.process.pid).num_fds()
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
    host, port = re.findall(r"//([^:]+):(\d+)", server.url)[0]
    idle = [socket.create_connection((host, int(port))) for _ in range(80)]
    server.until(lambda: psutil.Process(server.process.pid).num_fds() >= used + 19)
    for count in (1, 2):
        server.engine.kill()
        server.until(lambda count=count: server.metric("engine_restarts_total") == count)
        assert server.http.get("/health").json() == {"status": "ok"}
    for connection in idle:
        connection.close()
    server.until(lambda: psutil.Process(server.process.pid).num_fds() <= used + 2)
    with httpx.Client(base_url=server.url) as other:
        assert other.get("/health").json() == {"status": "ok"}, "there is room for new connections"
    assert server.post("/v1/completions", {"prompt": "abc", "max_tokens": 3}).json()["choices"][0]["text"] == "abc"
    assert server.stop() == 0
    assert len(server.errors) < 100, "a full table of descriptors does not flood the log"
