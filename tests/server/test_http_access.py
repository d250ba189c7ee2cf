"""Who may use the API: keys, names of the server, pages of others; and what is answered to anyone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import openai
import pytest
from support.servers import ServerProcess

from flover.cli.main import main
from flover.config import EngineConfig, ServerConfig, read_environment
from flover.errors import ConfigError
from flover.server.app import create_app
from flover.server.app_state import AppState
from flover.server.http_hosts import check_exposure, is_loopback
from flover.server.http_keys import ApiKey, combine_salts, salt_of

Start = Callable[..., ServerProcess]
PAGE = "https://page.example"


def with_app(scenario: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]], **settings: Any) -> None:
    async def run() -> None:
        state = AppState(EngineConfig(model="toy"), ServerConfig(**settings))
        transport = httpx.ASGITransport(app=create_app(state))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await scenario(client)

    asyncio.run(run())


# Keys as they are given


@pytest.mark.parametrize("key", ["", " ", "\t", "a b", " a", "a ", "a\n", "\n", "a\0b", "é", "\x7f", "a\u200b"])
def test_a_key_that_no_client_or_every_client_sends_is_refused(key: str) -> None:
    for keys in ((key,), ("good", key)):
        with pytest.raises(ConfigError, match="--api-key") as caught:
            ServerConfig(api_key=keys)
        assert "good" not in str(caught.value)


def test_one_text_is_no_list_of_keys() -> None:
    """Each of its letters would be a key."""
    with pytest.raises(ConfigError, match="--api-key"):
        ServerConfig(api_key="secret")  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [["--api-key", ""], ["--api-key", " "], ["--api-key", "a", ""], ["--api-key="]])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_refuses_an_empty_key(words: list[str], host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", host, *words]) != 0
    assert "--api-key" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_the_command_refuses_an_empty_variable(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOVER_API_KEY", value)
    assert main(["serve"]) != 0
    assert "FLOVER_API_KEY" in capsys.readouterr().err


def test_the_environment_holds_one_or_several_keys() -> None:
    assert read_environment({}).server_keys() == ()
    assert read_environment({"FLOVER_API_KEY": "a\n"}).server_keys() == ("a",)
    environment = read_environment({"FLOVER_API_KEY": "a b"})
    assert (environment.server_keys(), environment.api_key) == (("a", "b"), "a")
    assert read_environment({"FLOVER_API_KEY": ""}).api_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "", "127.evil.example", "localhost.evil.example"])
def test_other_machines_are_let_in_with_a_key_or_on_purpose(host: str) -> None:
    with pytest.raises(ConfigError, match="--allow-unauthenticated"):
        check_exposure(ServerConfig(host=host))
    check_exposure(ServerConfig(host=host, api_key=("k",)))
    check_exposure(ServerConfig(host=host, allow_unauthenticated=True))


def test_loopback_names_are_known() -> None:
    for name in ("localhost", "127.0.0.1", "127.1.2.3", "::1"):
        assert is_loopback(name)
        check_exposure(ServerConfig(host=name))
    for name in ("127.0.0.1.evil.example", "127.evil.example", "0.0.0.0", "10.0.0.1", "", "localhost.localdomain"):
        assert not is_loopback(name)


# Keys as they are sent


@pytest.mark.parametrize(
    ("headers", "lets_in"),
    [
        ([("Authorization", "Bearer one")], True),
        ([("Authorization", "bearer   two")], True),
        ([("X-Api-Key", "one")], True),
        ([("X-Api-Key", "one"), ("Authorization", "Bearer one")], True),
        ([("X-Api-Key", "one"), ("Authorization", "Bearer two")], False),
        ([("X-Api-Key", "one"), ("Authorization", "Bearer wrong")], False),
        ([("X-Api-Key", "wrong"), ("Authorization", "Bearer one")], False),
        ([("X-Api-Key", ""), ("Authorization", "Bearer one")], False),
        ([("X-Api-Key", "one"), ("Authorization", "Basic one")], False),
        ([("X-Api-Key", "one"), ("X-Api-Key", "one")], False),
        ([("Authorization", "Bearer one"), ("Authorization", "Bearer one")], False),
        ([("Authorization", "Bearer one two")], False),
        ([("Authorization", "Bearer one,two")], False),
        ([("Cookie", "Authorization=Bearer one")], False),
    ],
)
def test_each_key_opens_and_two_credentials_must_agree(headers: list[tuple[str, str]], lets_in: bool) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/metrics", headers=headers)).status_code == (200 if lets_in else 401)

    with_app(scenario, api_key=("one", "two"))


def test_a_key_in_the_trailers_is_no_key(start: Start) -> None:
    server = start(server={"api_key": ["one"]})
    host, port = httpx.URL(server.url).netloc.decode().split(":")
    body = b'{"prompt": "a", "max_tokens": 1}'
    request = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nAuthorization: Bearer one\r\n\r\n" % (len(body), body)
    )
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 401 ")


def salts(*keys: str) -> dict[str, str]:
    """The salt that each key's requests get."""
    found = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found[key] = salt_of(scope)

    guarded = ApiKey(app, keys)
    for key in keys:
        scope = {"type": "http", "path": "/v1/x", "headers": [(b"x-api-key", key.encode())]}
        asyncio.run(guarded(scope, None, None))  # type: ignore[arg-type]
    return found


def test_keys_have_salts_of_their_own() -> None:
    apart = salts("one", "two")
    assert len(set(apart.values())) == 2
    assert all(apart.values())
    assert not any(key in salt for key, salt in apart.items())
    assert set(salts("one").values()) == {""}
    assert set(salts("one", "one").values()) == {""}


def test_no_cache_salt_of_a_client_leads_to_another_key_s() -> None:
    one, two = salts("one", "two").values()
    inner = combine_salts(two, "x")
    combined = {
        combine_salts(key, own) for key in (one, two) for own in ("", "x", one, two, inner, f"1:{two}", two + "x")
    }
    assert len(combined) == 14
    assert combine_salts("", "x") == "x"


def test_another_key_s_prompt_is_not_found(start: Start) -> None:
    server = start(server={"api_key": ["one", "two"]})
    prompt = "the secret of one " * 40

    def cached(key: str, route: str = "/v1/completions", **more: Any) -> int:
        body = {"prompt": prompt} if "chat" not in route else {"messages": [{"role": "user", "content": prompt}]}
        answer = server.http.post(
            route, json={**body, "max_tokens": 1, **more}, headers={"Authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 200, answer.text
        details: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return details

    for route in ("/v1/completions", "/v1/chat/completions"):
        assert cached("one", route) == 0
        assert cached("one", route) > 0
        assert cached("two", route) == 0
        assert cached("two", route) > 0
        assert cached("one", route, cache_salt="mine") == 0
        assert cached("two", route, cache_salt="mine") == 0
        assert cached("one", route, cache_salt="mine") > 0
    shared = start(server={"api_key": ["one", "two"], "share_prefixes": True})
    server = shared
    assert cached("one") == 0
    assert cached("two") > 0


# Names of the server, and pages of others


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("localhost.", 200),
        ("127.0.0.1:1", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("mine.example:8000", 200),
        ("evil.example", 403),
        ("mine.example.evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:127", 403),
        ("10.0.0.1", 403),
        ("localhost@evil.example", 403),
        ("", 403),
    ],
)
def test_without_a_key_only_names_of_this_machine_are_answered(host: str, status: int) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics", headers={"Host": host})
        assert answer.status_code == status
        if status == 403:
            assert "--allowed-hosts" in answer.json()["error"]["message"]
        for path in ("/livez", "/health", "/readyz", "/healthz", "/ping"):
            assert (await client.get(path, headers={"Host": host})).status_code in (200, 503)

    with_app(scenario, allowed_hosts=("mine.example",))


@pytest.mark.parametrize("settings", [{"api_key": ("k",)}, {"allowed_hosts": ("*",)}])
def test_with_a_key_any_name_will_do(settings: dict[str, Any]) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {"Host": "any.example", "Authorization": "Bearer k"}
        assert (await client.get("/metrics", headers=headers)).status_code == 200

    with_app(scenario, **settings)


def test_a_server_for_all_without_a_key_answers_to_its_addresses_but_to_no_stranger_s_name() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        for host, status in (("192.168.1.9:8000", 200), ("[fe80::1]", 200), ("evil.example", 403)):
            assert (await client.get("/metrics", headers={"Host": host})).status_code == status

    with_app(scenario, host="0.0.0.0", allow_unauthenticated=True)


def test_a_request_has_one_host() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics", headers=[("Host", "localhost"), ("Host", "localhost")])
        assert answer.status_code == 400

    with_app(scenario)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost", 200),
        ("http://localhost:80", 200),
        (PAGE, 200),
        ("https://evil.example", 403),
        ("http://localhost:3000", 403),
        ("https://localhost:8000", 403),
        ("null", 403),
        ("chrome-extension://localhost", 403),
        ("http://localhost@evil.example", 403),
    ],
)
def test_without_a_key_a_page_of_others_may_ask_nothing(origin: str | None, status: int) -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "text/plain"} | ({} if origin is None else {"Origin": origin})
        answer = await client.get("/metrics", headers=headers)
        assert answer.status_code == status
        posted = await client.post("/v1/completions", headers=headers, content=b"{}")
        assert (posted.status_code == 403) == (status == 403)
        if status == 403:
            assert "--allowed-origins" in answer.json()["error"]["message"]

    with_app(scenario, allowed_origins=(PAGE,))


def test_pages_that_are_allowed_get_their_headers_and_need_no_key_to_ask_first() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        asks = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
        }
        answer = await client.options("/v1/chat/completions", headers=asks)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert "x-stainless-os" in answer.headers["Access-Control-Allow-Headers"]
        refused = await client.post("/v1/chat/completions", headers={"Origin": PAGE})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == PAGE
        assert "x-request-id" in refused.headers["Access-Control-Expose-Headers"].lower()
        evil = await client.options("/v1/chat/completions", headers={**asks, "Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in evil.headers

    with_app(scenario, allowed_origins=(PAGE,), api_key=("k",))


def test_without_allowed_origins_options_names_the_methods_and_no_page() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.options("/metrics", headers={"Origin": "http://localhost"})
        assert answer.status_code == 405
        assert "GET" in answer.headers["Allow"]
        assert not [name for name in answer.headers if name.startswith("access-control")]

    with_app(scenario)


# Routes by other names


def test_the_server_says_where_things_are_and_that_it_runs() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        assert (await client.get("/livez")).json() == {"status": "ok"}
        for path in ("/health", "/readyz", "/healthz", "/ping"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
        for path in ("/v1/models", "/", "/v1"):
            assert (await client.get(path)).status_code == 503

    with_app(scenario)


@pytest.mark.parametrize("path", ["/health", "/livez", "/v1/models", "/models", "/metrics", "/dashboard", "/version"])
def test_head_answers_as_get_without_the_body(server: ServerProcess, path: str) -> None:
    got, head = server.http.get(path), server.http.head(path)
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":
        assert head.headers["content-length"] == str(len(got.content))


def test_head_of_a_stream_ends(server: ServerProcess) -> None:
    assert server.http.head("/live").status_code == 200
    assert server.http.head("/v1/completions").status_code == 405


def test_a_base_url_without_v1_answers_too(server: ServerProcess) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=10)
    assert client.models.list().data[0].id == "toy"
    assert client.models.retrieve("toy").id == "toy"
    message: Any = {"role": "user", "content": "hi"}
    assert client.chat.completions.create(model="toy", messages=[message], max_tokens=3).usage
    assert client.completions.create(model="toy", prompt="a", max_tokens=3).usage
    for path in ("/", "/v1"):
        assert server.http.get(path).json()["chat_completions"] == "/v1/chat/completions"
