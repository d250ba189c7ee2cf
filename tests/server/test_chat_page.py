"""The chat page: who gets it, and a chat in a real browser."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import web
from browser import Browser
from support.servers import ServerProcess

from flover.server.dashboard import chat

HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


async def _page(request: web.Request) -> web.Response:
    answer = chat()
    return web.Response(body=answer.body, headers=dict(answer.headers))


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "toy"}]})


async def _chat(request: web.Request) -> web.StreamResponse:
    sent = (await request.json())["messages"][-1]["content"]
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for text in ("You said ", sent):
        event = {"choices": [{"delta": {"content": text, "reasoning_content": text}}]}
        await answer.write(f"data: {json.dumps(event)}\n\n".encode())
    await answer.write(b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\ndata: [DONE]\n\n')
    return answer


@pytest.mark.browser
def test_hostile_output_is_shown_as_text() -> None:
    async def run() -> None:
        app = web.Application()
        app.add_routes([web.get("/", _page), web.get("/v1/models", _models), web.post("/v1/chat/completions", _chat)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with Browser() as browser:
            await browser.open(f"http://{host}:{port}/")
            await browser.until("document.getElementById('model')?.textContent === 'toy'")
            await browser.until(f"(ask({json.dumps(HOSTILE)}), true)")
            await browser.until("document.querySelector('.numbers')?.textContent.startsWith('2 tokens')")
            shown = json.dumps(f"You said {HOSTILE}")
            for kind in ("text", "reasoning"):
                await browser.until(f"document.querySelector('.assistant .{kind}').textContent === {shown}")
            await browser.until("document.title === 'Flover chat' && !document.querySelector('main img, main script')")
        await runner.cleanup()

    asyncio.run(run())


def test_browsers_get_the_page_and_others_the_links(server: ServerProcess) -> None:
    page = server.http.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    links = server.http.get("/", headers={"Accept": "*/*"})
    assert (
        page.headers["Content-Type"].startswith("text/html")
        and "default-src" in page.headers["Content-Security-Policy"]
    )
    assert links.json()["models"] == "/v1/models"
    assert page.headers["Vary"] == links.headers["Vary"] == "Accept"


@pytest.mark.browser
def test_a_message_is_typed_and_its_answer_streams(server: ServerProcess) -> None:
    async def run() -> None:
        async with Browser() as browser:
            await browser.open(f"{server.url}/")
            await browser.until("document.getElementById('model')?.textContent === 'toy'")
            await browser.until("(document.getElementById('max-tokens').value = 12, true)")
            await browser.until("(document.getElementById('text').value = 'hello', true)")
            await browser.until("(document.getElementById('ask').requestSubmit(), true)")
            await browser.until("document.querySelector('.numbers')?.textContent.startsWith('12 tokens')")
            await browser.until("document.querySelector('.assistant .text').textContent.length > 0 && !running")
            await browser.until(
                "(document.getElementById('new').click(), document.querySelectorAll('article').length === 0)"
            )
            assert browser.problems == []
            assert all(url.startswith(server.url) for url in browser.requests if url.startswith("http"))

    asyncio.run(run())
