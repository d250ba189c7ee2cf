"""Deadlines of requests; shares and rates of API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from starlette.datastructures import Headers
from support.servers import ServerProcess, read_events
from support.toy import make_engine, request

from flover.config import KeyLimits, read_keys
from flover.errors import ConfigError
from flover.server.deadlines import Pace, Turns
from flover.server.errors import HttpError, error_response
from flover.server.http_keys import KEY_SALT
from flover.server.rate_headers import NAMES, RateHeaders, duration
from flover.server.rates import Account

ROWS, TOKENS, STEP, DEADLINE_MS = 4, 20, 0.001, 60


def goodput(*, refuse: bool, load: float, seconds: float = 3.0) -> tuple[float, int]:
    """Requests that end within their deadline, as a share of what the rows can serve, and how many came. Arrivals are
    random; `refuse`: as the server does it, at the door and at the deadline."""
    engine, device = make_engine(rows=ROWS, pages=400)
    pace, rng = Pace(ROWS), Random(1)
    capacity = ROWS / (TOKENS * STEP)
    arrival, due, first, made, came, open_ = 0.0, dict[str, float](), dict[str, float](), 0, 0, 0
    while device.now < seconds:
        while arrival <= device.now:
            came, name = came + 1, f"r{came}"
            due[name] = arrival + DEADLINE_MS / 1000
            arrival += rng.expovariate(load * capacity)
            try:
                if refuse:
                    pace.check(DEADLINE_MS, sequences=1, max_tokens=TOKENS, num_open=open_)
            except HttpError as error:
                assert error.status == 429 and error.retry_after >= 1
                continue
            engine.submit(request(name, prompt_len=1, max_tokens=TOKENS))
            open_ += 1
        if not engine.has_work:
            device.now = arrival
            continue
        for delta in engine.step():
            name = delta.request_id
            first.setdefault(name, device.now)
            if delta.finish_reason is None:
                continue
            if delta.finish_reason != "abort":
                made += device.now <= due[name]
                pace.end(device.now, tokens=TOKENS, seconds_generating=device.now - first[name], num_open=open_)
            open_ -= 1
        if refuse:
            for name in [name for name, time in due.items() if time <= device.now]:
                engine.cancel(name)
                del due[name]
    return made / (capacity * seconds), came


def test_under_twice_the_load_requests_that_are_let_in_make_their_deadline() -> None:
    """First come, first served, the queue soon is longer than any deadline, and nearly all is late."""
    fcfs, came = goodput(refuse=False, load=2.0)
    refusing, same = goodput(refuse=True, load=2.0)
    assert came == same > 1000
    assert fcfs < 0.2
    assert refusing > 0.85
    calm, _ = goodput(refuse=True, load=0.5)
    assert calm == pytest.approx(goodput(refuse=False, load=0.5)[0], abs=0.02)


def test_nothing_is_refused_before_the_pace_is_known() -> None:
    pace = Pace(rows=1)
    pace.check(1, sequences=1, max_tokens=1000, num_open=1000)
    for number in range(8):
        pace.end(float(number), tokens=11, seconds_generating=1.0, num_open=2)
    estimate = pace.estimate(sequences=1, max_tokens=5, num_open=3)
    assert estimate is not None and (estimate.wait, estimate.service) == pytest.approx((3.0, 0.5))
    with pytest.raises(HttpError, match=r"deadline_ms 3400 .* 3 sequences open, about 3500 ms .* 3000 of them"):
        pace.check(3400, sequences=1, max_tokens=5, num_open=3)
    pace.check(3600, sequences=1, max_tokens=5, num_open=3)


def test_a_light_key_is_not_refused_for_the_queue_of_a_heavy_one() -> None:
    """It takes turns with it: what waits before it is its own, at its share of the rows."""
    pace = Pace(rows=4)
    for number in range(8):
        pace.end(float(number), tokens=11, seconds_generating=1.0, num_open=20)
    request: Any = {"sequences": 1, "max_tokens": 5, "num_open": 103}
    for turns, wait in ((None, 100), (Turns(0, 0.5), 0), (Turns(1, 0.5), 0), (Turns(4, 0.5), 6), (Turns(103, 1), 100)):
        estimate = pace.estimate(turns=turns, **request)
        assert estimate is not None and estimate.wait == pytest.approx(wait)
    light, heavy, absent = (
        Account(KeyLimits(key=key, weight=weight)) for key, weight in (("l", 1), ("h", 3), ("a", 9))
    )
    heavy.opened(100, 5000)
    light.opened(2, 10)
    light.opened(-2, 10)
    assert light.turns_among([light, heavy, absent]) == Turns(0, 0.25)
    assert heavy.turns_among([light, heavy, absent]) == Turns(100, 1.0)
    pace.check(1000, **request, turns=light.turns_among([light, heavy, absent]))


def test_a_key_gets_its_rates_and_is_told_when_there_is_more() -> None:
    account = Account(KeyLimits(key="k", requests_per_minute=2, tokens_per_minute=100))
    account.request(0.0)
    account.request(0.0)
    with pytest.raises(HttpError, match="2 requests a minute") as caught:
        account.request(10.0)
    assert caught.value.status == 429 and caught.value.retry_after == pytest.approx(20.0)
    account.request(30.0)
    account.tokens(199)
    with pytest.raises(HttpError, match="100 tokens a minute") as caught:
        account.request(60.0)
    assert caught.value.retry_after == pytest.approx(30.0)
    account.request(90.1)


def test_headers_say_what_a_key_may_still_use() -> None:
    """On a simulated clock: 60 requests a minute come back one a second, and 1,000 tokens one in 60 ms."""
    now, limits = 0.0, KeyLimits(key="k", requests_per_minute=60, tokens_per_minute=1000)
    known = {"k": Account(limits), "free": Account(KeyLimits(key="free", weight=2))}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tokens = int(scope["path"].strip("/"))
        try:
            known["k"].request(now)
            known["k"].tokens(tokens)
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except HttpError as error:
            await error_response(error)(scope, receive, send)

    def rates(tokens: int, salt: str | None = "k") -> tuple[int, list[str]]:
        heads = []

        async def note(message: Any) -> None:
            heads.append(message)

        scope = {"type": "http", "path": f"/{tokens}"} | ({} if salt is None else {KEY_SALT: salt})
        asyncio.run(RateHeaders(app, known, lambda: now)(scope, AsyncMock(), note))
        found = Headers(raw=heads[0]["headers"])
        return heads[0]["status"], [found[name] for name in NAMES if name in found]

    assert rates(0) == (200, ["60", "59", "1s", "1000", "1000", "0s"])
    now = 0.02
    assert rates(100) == (200, ["60", "58", "1.98s", "1000", "900", "6s"])
    now = 3.0
    assert rates(7000) == (200, ["60", "59", "1s", "1000", "0", "7m3.02s"])
    assert rates(0) == (429, ["60", "59", "1s", "1000", "0", "7m3.02s"])
    now = 360.0
    assert rates(0) == (429, ["60", "60", "0s", "1000", "0", "1m6.02s"])
    now = 400.0
    assert rates(500) == (200, ["60", "59", "1s", "1000", "66", "56.02s"])
    assert rates(0, "free") == rates(0, None) == (200, [])
    assert [duration(seconds) for seconds in (0.0171, 3661.5)] == ["18ms", "1h1m1.5s"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- {key: top-secret, weight: 0}", r"weight"),
        ("- {key: top-secret, wieght: 2}", r"wieght"),
        ("- {key: top-secret}\n- {key: top-secret}", "a key twice"),
        ("- {key: top secret}", "printable ASCII"),
        ("- {weight: 2}", "key"),
        ("[]", "no keys"),
        ("{", "not YAML"),
        ("key: top-secret", "array"),
    ],
)
def test_a_file_of_keys_is_refused_by_name_and_never_shown(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_keys(str(path))
    assert str(caught.value).startswith("--api-key-file")
    assert "secret" not in str(caught.value)


def test_a_server_keeps_deadlines_and_rates(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(
        "- {key: slow, requests_per_minute: 1}\n- {key: thin, tokens_per_minute: 12}\n- {key: wide, weight: 3}"
    )
    page = "https://page.example"
    server = start("--delay", "0.01", server={"api_key_file": str(keys), "allowed_origins": [page]})

    def post(key: str, **body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", "Origin": page}
        return server.http.post("/v1/completions", json={"prompt": "abc", "max_tokens": 8, **body}, headers=headers)

    assert post("none").status_code == 401
    slow = [post("slow", stream=True) for _ in range(2)]
    assert [one.status_code for one in slow] == [200, 429]
    for one in slow:
        limit, remaining, reset = (one.headers[name] for name in NAMES[:3])
        assert (limit, remaining) == ("1", "0") and 50 < float(reset.removesuffix("s").replace("1m0", "60")) <= 60
        assert NAMES[3] not in one.headers and set(NAMES) <= set(
            one.headers["Access-Control-Expose-Headers"].split(", ")
        )
    answer = [post("thin") for _ in range(3)][-1]
    assert answer.status_code == 429 and "tokens_per_minute" in answer.json()["error"]["message"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60 and answer.headers["X-RateLimit-Remaining-Tokens"] == "0"
    late = post("wide", max_tokens=2000, deadline_ms=200)
    assert not set(late.headers) & {name.lower() for name in NAMES}
    assert late.status_code == 429 and late.json()["error"]["code"] == "deadline_exceeded"
    assert late.json()["error"]["param"] == "deadline_ms"
    streamed = read_events(post("wide", max_tokens=2000, deadline_ms=200, stream=True).text)
    assert "error" in streamed[-1] or "error" in streamed[-2]
    assert all(choice["finish_reason"] is None for event in streamed[:-2] for choice in event.get("choices", []))
    assert post("wide", deadline_ms=60_000).json()["choices"][0]["finish_reason"] == "length"
    assert post("wide", deadline_ms=0).json()["error"]["message"].startswith("deadline_ms must be a whole number of")
    server.http.headers["Authorization"] = "Bearer wide"
    server.until(lambda: server.metric("num_requests_running") == 0)
