"""The dashboard's page as it is sent: who gets it, what it may do, what it asks of others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

import httpx

from flover.config import EngineConfig, ServerConfig
from flover.server.app import create_app
from flover.server.app_state import AppState
from flover.server.dashboard import policy


def page(api_key: str | None = None, method: str = "GET") -> httpx.Response:
    async def get() -> httpx.Response:
        state = AppState(EngineConfig(model="toy"), ServerConfig(api_key=() if api_key is None else (api_key,)))
        transport = httpx.ASGITransport(app=create_app(state))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, "/dashboard")

    return asyncio.run(get())


def test_the_page_comes_without_a_key_and_before_the_model_is_loaded() -> None:
    """A browser cannot send a key with an address; the page asks for it, and nothing is known without it."""
    answer = page(api_key="sk-secret")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>")
    assert "sk-secret" not in answer.text
    assert page(api_key="sk-secret", method="POST").status_code == 405


def test_the_policy_lets_only_the_page_s_own_script_and_style_run() -> None:
    answer = page()
    rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    for tag, count in (("script", 2), ("style", 1)):
        texts = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", answer.text, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert len(digests) == count
        assert rules[f"{tag}-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_a_changed_script_has_another_policy() -> None:
    assert policy("<script>a</script>") != policy("<script>b</script>")


def test_the_page_names_nobody_else_and_has_no_code_in_attributes() -> None:
    text = page().text
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s'\"]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of a vocabulary, never fetched"
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert re.findall(r"\son\w+=|\sstyle=|javascript:", markup) == []
    assert re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=\"(?!data:)", text) == []
    assert "innerHTML" not in text, "what requests are called is text"
