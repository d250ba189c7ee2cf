"""The timeline of a request adds up to its latency; the file of usage has numbers and no content."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.servers import ServerProcess

from flover.config import ServerConfig
from flover.errors import ConfigError
from flover.server.usage import Usage, intervals

NAMES = ["receive", "prepare", "first_token", "generate", "send"]


def test_parts_have_no_gaps_whatever_is_missing() -> None:
    parts = intervals(10.0, [("a", 10.1), ("b", None), ("c", 10.05), ("d", 10.5)])
    assert [(part["name"], part["start_us"], part["duration_us"]) for part in parts] == [
        ("a", 0, 100_000),
        ("c", 100_000, 0),
        ("d", 100_000, 400_000),
    ]


def test_of_each_request_and_to_its_own_client_only(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    server = start("--delay", "0.01", server={"usage_log": str(path), "api_key": ["one", "two"]})

    def ask(key: str, method: str, url: str, body: object = None) -> tuple[dict[str, object], str, int]:
        answer = server.http.request(method, url, json=body, headers={"Authorization": f"Bearer {key}"})
        found = answer.json() if answer.headers["content-type"] == "application/json" else {}
        return found, answer.headers["x-request-id"], answer.status_code

    bodies = [{"prompt": "canary", "max_tokens": 20}, {"prompt": "canary", "max_tokens": 5, "stream": True}]
    for body in bodies:
        began = time.monotonic()
        _, name, status = ask("one", "POST", "/v1/completions", body)
        seconds = time.monotonic() - began
        timeline, _, found = ask("one", "GET", f"/v1/requests/{name}/timeline")
        assert (status, found) == (200, 200)
        parts = timeline["intervals"]
        assert isinstance(parts, list) and [part["name"] for part in parts] == NAMES
        assert sum(part["duration_us"] for part in parts) == timeline["latency_us"] <= 1e6 * seconds
        generated = {part["name"]: part["duration_us"] for part in parts}["generate"]
        assert generated >= 0.009e6 * (body["max_tokens"] - 1)  # type: ignore[operator]
        assert ask("two", "GET", f"/v1/requests/{name}/timeline")[2] == 404
    assert ask("one", "GET", "/v1/requests/none/timeline")[2] == 404
    assert server.stop() == 0
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [(line["completion_tokens"], line["finish_reasons"]) for line in lines] == [
        (20, {"length": 1}),
        (5, {"length": 1}),
    ]
    assert len({line["client"] for line in lines}) == 1 and "canary" not in text
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="--usage-log /nowhere/x cannot be written: No such file"):
        Usage("/nowhere/x")
    assert ServerConfig().usage_log is None
