"""HTTP servers of tests, each in threads of this process: a handler says what they answer."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FakeServer(http.server.ThreadingHTTPServer):
    """On a free port. `seen` is what its handler has noted; `ended` is set when the test is over."""

    def __init__(self, handler: type[FakeHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[Any] = []
        self.ended = threading.Event()


class FakeHandler(http.server.BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self.get()

    def do_HEAD(self) -> None:
        self.get()

    def do_POST(self) -> None:
        self.post(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def get(self) -> None:
        """Answer a GET."""
        raise NotImplementedError

    def post(self, body: Any) -> None:
        """Answer a POST with this body."""
        raise NotImplementedError

    def answer(self, status: int, content: str | bytes, *, more: bool = False) -> None:
        """An answer; with `more` its body goes on."""
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        if not more:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[FakeHandler]) -> Iterator[FakeServer]:
    """A server that runs for the block."""
    with FakeServer(handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
