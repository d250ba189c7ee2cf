"""`flover top` in front of the true server."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from support.servers import ServerProcess

from flover.cli.main import main


def test_once_shows_those_who_generate(start: Callable[..., ServerProcess], capsys: pytest.CaptureFixture[str]) -> None:
    server = start("--delay", "0.01")
    body = {"prompt": "abc", "max_tokens": 1000, "ignore_eos": True, "n": 2, "temperature": 1, "seed": 1}

    with httpx.stream("POST", f"{server.url}/v1/completions", json={**body, "stream": True}, timeout=30):
        server.until(lambda: server.metric("num_requests_running") == 2)
        assert main(["top", server.url, "--once", "--seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "batch size 2 of 64 rows" in out
    assert "0 " + "A" * 20 in out
    assert "1 " + "B" * 20 in out
