"""Keys, request ids and metrics. In process: what stands before the routes needs no engine."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from support.servers import ServerProcess

from flover.config import EngineConfig, Limits, ServerConfig
from flover.server import http_keys
from flover.server.app import create_api, create_app
from flover.server.app_state import AppState
from flover.server.http_body import BodyLimit
from flover.server.http_keys import OPEN_PATHS
from flover.server.metrics import Metrics

KEY = "sk-a-long-secret"
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PROPFIND")
WRONG: tuple[dict[str, str] | list[tuple[str, str]], ...] = (
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer wrong"},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {KEY.upper()}"},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": KEY},
    {"X-Api-Key": KEY[:-1]},
    {"X-Api-Key": KEY, "Authorization": "Bearer wrong"},
    {"X-Api-Key": "wrong", "Authorization": f"Bearer {KEY}"},
    [("X-Api-Key", KEY), ("X-Api-Key", KEY)],
    [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {KEY}")],
    {"Host": "a/health?x="},
    {"Host": "x/health#", "X-Forwarded-Path": "/health", "X-Original-URL": "/health"},
)


def with_app(scenario: Callable[[httpx.AsyncClient, Starlette], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Run a scenario against the application, with no engine behind it."""

    async def run() -> None:
        state = AppState(EngineConfig(model="toy"), ServerConfig(**settings))
        transport = httpx.ASGITransport(app=create_app(state), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await scenario(client, create_api(state))

    asyncio.run(run())


def paths_of(api: Starlette) -> list[str]:
    """Every path that the application answers to, and some that it does not."""
    known = [route.path.replace("{name:path}", "toy") for route in api.routes if isinstance(route, Route)]
    assert len(known) >= 9
    others = ["/livez", "/readyz", "/healthz", "/ping", "/v1", "/models", "/chat/completions", "/completions"]
    others += ["/openapi.json", "/docs", "/nothing", "/", "//health", "/health/", "/HEALTH", "/health/../metrics"]
    return known + others


def test_without_the_key_nothing_but_health_answers() -> None:
    async def scenario(client: httpx.AsyncClient, api: Starlette) -> None:
        for path in paths_of(api):
            for method in METHODS:
                for headers in WRONG:
                    answer = await client.request(method, path, headers=headers)
                    if answer.request.url.path in OPEN_PATHS:  # to httpx //health is the root of another host
                        assert answer.status_code in (200, 503, 405)
                        continue
                    assert answer.status_code == 401, (method, path, headers)
                    if method != "HEAD":
                        error = answer.json()["error"]  # of Ollama's paths a text
                        assert (
                            "API key" in error if path.startswith("/api/") else error["type"] == "authentication_error"
                        )

    with_app(scenario, api_key=(KEY,))


def test_with_the_key_every_route_answers() -> None:
    async def scenario(client: httpx.AsyncClient, api: Starlette) -> None:
        for scheme in ("Bearer", "bearer"):
            for path in paths_of(api):
                for method in METHODS:
                    answer = await client.request(method, path, headers={"Authorization": f"{scheme} {KEY}"})
                    assert answer.status_code in (200, 400, 404, 405, 503), (method, path)

    with_app(scenario, api_key=(KEY,))


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Watched:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(http_keys, "hmac", Watched)

    async def scenario(client: httpx.AsyncClient, api: Starlette) -> None:
        await client.get("/metrics", headers={"Authorization": "Bearer x"})
        assert [len(part) for pair in compared for part in pair] == [32, 32]

    with_app(scenario, api_key=(KEY,))


def test_every_answer_has_a_request_id() -> None:
    async def scenario(client: httpx.AsyncClient, api: Starlette) -> None:
        for path in ("/health", "/nothing", "/metrics"):
            answer = await client.get(path, headers={"X-Request-Id": "mine.1-a_B"})
            assert answer.headers["X-Request-Id"] == "mine.1-a_B"
            for harmful in ("", "a b", "a" * 65, "<script>", "a\tb", "é".encode().decode("latin-1")):
                answer = await client.get(path, headers={"X-Request-Id": harmful.encode("latin-1")})
                assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])

    with_app(scenario)


def test_an_unexpected_failure_does_not_show_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Metrics) -> bytes:
        raise ZeroDivisionError("secret thing at 0x7f00")

    monkeypatch.setattr(Metrics, "exposition", broken)

    async def scenario(client: httpx.AsyncClient, api: Starlette) -> None:
        answer = await client.get("/metrics")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text
        assert answer.headers["X-Request-Id"]

    with_app(scenario)


def test_a_body_is_read_to_its_limit_and_no_further() -> None:
    """In pieces, without a Content-Length: only counting helps."""
    taken, sent = [], []

    async def receive() -> dict[str, Any]:
        taken.append(1)
        return {"type": "http.request", "body": b"x" * 2**16, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the route must not be reached")

    asyncio.run(BodyLimit(app, Limits())({"type": "http", "headers": []}, receive, send))
    assert sent[0]["status"] == 413
    assert len(taken) == 2 * 2**20 // 2**16 + 1


# Metrics, on the shared server


def test_metrics_can_have_the_names_that_dashboards_of_vllm_read() -> None:
    names = [
        {line.split("{")[0] for line in Metrics("m", prefix).exposition().decode().splitlines() if line[0] != "#"}
        for prefix in ("flover", "vllm")
    ]
    assert {"vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket"} < names[1]
    assert {name.replace("vllm:", "flover:") for name in names[1]} == names[0]


def test_all_metrics_have_our_prefix_and_closed_labels(server: ServerProcess) -> None:
    for i in range(5):
        server.http.get(f"/nothing-{i}", headers={"X-Request-Id": f"id-{i}"})
        server.post("/v1/completions", {"prompt": "abc", "model": f"model-{i}"})
    text = server.http.get("/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines
    assert all(line.startswith("flover:") for line in lines)
    assert all('model_name="toy"' in line for line in lines)
    labels = {label for line in lines for label in re.findall(r'(\w+)="', line)}
    assert labels == {"model_name", "finished_reason", "le", "status"}
    assert "-3" not in text
    count = len(lines)
    server.post("/v1/completions", {"prompt": "abc", "stop": "b"})
    assert len(server.http.get("/metrics").text.splitlines()) - text.count("# ") == count


def test_metrics_count_what_has_been_done(server: ServerProcess) -> None:
    names = (
        "prompt_tokens_total",
        "generation_tokens_total",
        "iteration_rows_sum",
        "iteration_rows_count",
        "iteration_tokens_sum",
        "time_to_first_token_seconds_count",
        "inter_token_latency_seconds_count",
        "e2e_request_latency_seconds_count",
        "request_prompt_tokens_sum",
        "request_generation_tokens_sum",
    )
    before, seen = {name: server.metric(name) for name in names}, {"": -1.0}
    while before != seen or server.metric("num_requests_running"):  # a client of a test before may have left just now
        time.sleep(0.1)
        before, seen = {name: server.metric(name) for name in names}, before
    server.post("/v1/completions", {"prompt": "metrics", "n": 4, "temperature": 1, "max_tokens": 11, "seed": 0})
    grown = {name: server.metric(name) - before[name] for name in names}
    prompt_tokens = 7
    # Sequence 0 computes the prompt; the others wait for it or compute it too, so only the outputs are exact.
    assert grown["generation_tokens_total"] == 44
    assert grown["prompt_tokens_total"] >= prompt_tokens
    assert grown["iteration_rows_sum"] == 40, "the first token of a sequence comes with its prompt"
    assert grown["iteration_tokens_sum"] == 40 + grown["prompt_tokens_total"]
    assert grown["iteration_rows_sum"] / grown["iteration_rows_count"] > 2, "mean fused width"
    assert grown["time_to_first_token_seconds_count"] == 4
    assert grown["inter_token_latency_seconds_count"] == 40
    assert grown["e2e_request_latency_seconds_count"] == 1
    assert grown["request_prompt_tokens_sum"] == prompt_tokens
    assert grown["request_generation_tokens_sum"] == 44
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"):
        assert server.metric(name) == 0
    assert server.metric("row_moves_total") >= 0
    assert server.metric("prefix_cache_queries_total") >= server.metric("prefix_cache_hits_total")


def test_version_and_the_api_description(server: ServerProcess) -> None:
    assert re.match(r"\d+\.\d+", server.http.get("/version").json()["version"])
    description = server.http.get("/openapi.json").json()
    assert "temperature" in str(description["components"]["schemas"]["ChatBody"])
