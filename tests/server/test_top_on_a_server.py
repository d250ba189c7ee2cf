"""`flover top` in front of the true server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import httpx
import pytest
from support.servers import ServerProcess

from flover.cli.main import main


def test_once_shows_those_who_generate(start: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]) -> None:
    server = start("--delay", "0.01")
    body = {"prompt": "abc", "max_tokens": 1000, "ignore_eos": True, "n": 2, "temperature": 1, "seed": 1}

    def post() -> None:
        with contextlib.suppress(httpx.HTTPError):  # the server's end comes before the answer's
            server.post("/v1/completions", body)

    threading.Thread(target=post, daemon=True).start()
    server.until(lambda: server.metric("num_requests_running") == 2)
    assert main(["top", server.url, "--once", "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "batch size 2 of 64 rows" in out
    assert "0 " + "A" * 20 in out
    assert "1 " + "B" * 20 in out
