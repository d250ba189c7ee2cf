"""The dashboard in a real browser, in front of a feed that the test writes, and in front of the true server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from browser import Browser
from support.live_script import SCRIPT, event, facts_event, iteration
from support.servers import ServerProcess

from flover.observe.timeline import DEAD
from flover.server.dashboard import dashboard

pytestmark = pytest.mark.browser
KEY = "sk-secret"
LANES = "window.flover.lanes().map((lane) => [lane.request, lane.row, lane.to - lane.from, lane.reason])"
PAGE = bytes(dashboard().body).decode()
(TIMELINE,) = re.findall(r'<script id="timeline">(.*?)</script>', PAGE, flags=re.DOTALL)


class Feed:
    """A server with the page and a `/live` that sends what the test puts. `open` counts streams that are read now."""

    def __init__(self, key: str | None = None) -> None:
        self.url = ""
        self.open = 0
        self.made = 0
        self.gone = False
        self._key = key
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(self, *events: bytes | None) -> None:
        """Send events on the stream that is open; None ends it."""
        for one in events:
            self._events.put_nowait(one)

    async def page(self, request: web.Request) -> web.Response:
        answer = dashboard()
        return web.Response(body=answer.body, headers=dict(answer.headers))

    async def live(self, request: web.Request) -> web.StreamResponse:
        if self._key is not None and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": {"message": "the API key is missing or wrong"}}, status=401)
        while self.gone:
            await asyncio.sleep(0.05)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        self.open += 1
        self.made += 1
        try:
            await answer.write(facts_event())
            while (content := await self._events.get()) is not None:
                await answer.write(content)
        finally:
            self.open -= 1
        return answer


@asynccontextmanager
async def serving(key: str | None = None) -> AsyncIterator[Feed]:
    feed = Feed(key)
    app = web.Application()
    app.add_routes([web.get("/dashboard", feed.page), web.get("/live", feed.live)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    feed.url = f"http://127.0.0.1:{runner.addresses[0][1]}/dashboard"
    try:
        yield feed
    finally:
        await runner.cleanup()


def watching(
    scenario: Callable[[Browser, Feed], Coroutine[Any, Any, None]],
    *,
    key: str | None = None,
    problems: int = 0,
    **size: int,
) -> None:
    """Run a scenario with the page open; nothing may go wrong in it and nothing be asked of another host."""

    async def run() -> None:
        async with serving(key) as feed, Browser(**size) as browser:
            await browser.open(feed.url)
            await browser.until("window.flover")
            await scenario(browser, feed)
            assert len(browser.problems) == problems, browser.problems
            asked = [url for url in browser.requests if not url.startswith(("data:", "about:"))]
            assert {url for url in asked if not url.startswith(feed.url.removesuffix("dashboard"))} == set()
            assert not any(KEY in url for url in asked)

    asyncio.run(run())


async def lanes(browser: Browser) -> list[list[Any]]:
    return [list(lane) for lane in await browser.value(LANES)]


async def text(browser: Browser, name: str) -> str:
    return re.sub(r"\s+", " ", await browser.value(f"document.getElementById({json.dumps(name)}).textContent"))


# The page in front of a written feed


def test_lanes_begin_move_and_end_as_requests_do() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        await browser.until("!document.getElementById('empty').hidden")
        assert "v1/completions" in await text(browser, "try")
        assert "toy" in await text(browser, "model")
        feed.put(event(SCRIPT[:3], generation_tokens=3, iterations=3, iteration_rows=3))
        await browser.until("window.flover.lanes().length === 3")
        assert await lanes(browser) == [["a", 0, 3, None], ["b", 1, 3, None], ["c", 2, 1, None]]
        await browser.until("document.getElementById('empty').hidden")
        feed.put(event(SCRIPT[3:6]))
        await browser.until("window.flover.timeline.lastStep === 5")
        assert await lanes(browser) == [["a", 0, 4, "stop"], ["b", 1, 5, "preempted"], ["c", 0, 4, None]]
        feed.put(event(SCRIPT[6:], finished={"stop": 1, "length": 1, "abort": 1}, row_moves=1))
        await browser.until("window.flover.timeline.lastStep === 7")
        assert await lanes(browser) == [["a", 0, 4, "stop"], ["b", 1, 8, "abort"], ["c", 0, 6, "length"]]
        await browser.until("document.getElementById('finished').textContent === '3'")
        assert await text(browser, "finished-more") == "stop 1 · length 1 · abort 1"
        assert "1 row move" in await text(browser, "width-more")
        assert await text(browser, "state") == "live, idle"

    watching(scenario)


def test_the_numbers_are_those_of_the_feed() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        feed.put(event(SCRIPT[:4], generation_tokens=6, iterations=4, iteration_rows=6, preemptions=2, waiting=5))
        await browser.until("document.getElementById('width').textContent.startsWith('3')")
        assert await text(browser, "width") == "3 of 8 rows"
        assert await text(browser, "width-more") == "mean 1.5 · 0 row moves"
        assert await text(browser, "queue") == "5 waiting"
        assert await text(browser, "queue-more") == "2 preemptions"
        assert await text(browser, "step") == "8.0 ms"
        assert await text(browser, "pages") == "30 of 100"
        assert await text(browser, "pages-more") == "5 cached · 65 free"
        # 8 ms of pre-processing alone; 3 of 4 tokens, 5 of 7, none: (8 + 6 + 40/7) of 32 ms.
        await browser.until("document.getElementById('step-more').textContent.includes('62% pre')")

    watching(scenario)


def test_sequences_have_their_colours_on_the_canvas() -> None:
    """Row 0 at the right edge: generating, a solid colour; row 1 too, another one; below them nothing."""

    async def scenario(browser: Browser, feed: Feed) -> None:
        feed.put(event([iteration(step, [0, 3], generating=[0, 1]) for step in range(2)]))
        await browser.until("window.flover.view.edge === 2")
        pixels_at = """(() => {
          const canvas = document.getElementById("lanes"), pen = canvas.getContext("2d");
          const at = (row) => [...pen.getImageData(canvas.width - 6 - 4, row * 20 + 10, 1, 1).data];
          return [at(0), at(1), at(5)];
        })()"""
        await browser.until(f"{pixels_at}[1][3] === 255")  # the page paints when the browser gives it a frame
        pixels = await browser.value(pixels_at)
        assert pixels[0][3] == pixels[1][3] == 255
        assert pixels[0] != pixels[1]
        assert pixels[2][3] == 0

    watching(scenario)


def test_the_key_is_asked_for_and_stays_out_of_the_address() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        async def give(key: str) -> None:
            await browser.value(f"document.getElementById('key-value').value = {json.dumps(key)}")
            await browser.value("document.querySelector('#key button').click()")

        await browser.until("!document.getElementById('key').hidden")
        assert "needs an API key" in await text(browser, "key-text")
        await give("wrong")
        await browser.until("document.getElementById('key-text').textContent.includes('does not accept')")
        assert feed.made == 0
        await give(KEY)
        await browser.until("document.getElementById('state').dataset.state === 'live'")
        assert await browser.value("document.getElementById('key').hidden")
        assert "Authorization: Bearer $FLOVER_API_KEY" in await text(browser, "try")
        assert KEY not in await browser.value("location.href + document.documentElement.outerHTML")

    watching(scenario, key=KEY, problems=2)  # the browser itself notes both answers of 401


def test_a_stream_that_ends_is_opened_again_and_what_was_missed_is_a_gap() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        feed.put(event(SCRIPT[:2]), None)
        await browser.until("window.flover.timeline.lastStep === 1")
        await browser.until("document.getElementById('state').dataset.state === 'live'")
        feed.put(event([iteration(9, [1], generating=[0])]))
        await browser.until("window.flover.timeline.lastStep === 9")
        assert feed.made == 2
        assert await browser.value("window.flover.timeline.columns.map((column) => column.gap)") == [0, 0, 7, 0]
        await browser.until("document.getElementById('footer').textContent.includes('7 iterations not seen')")

    watching(scenario)


def test_a_server_that_is_gone_has_no_reading() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        feed.put(event(SCRIPT[:3], generation_tokens=3, iterations=3, iteration_rows=3))
        await browser.until("document.getElementById('width').textContent.startsWith('2')")
        feed.gone = True
        feed.put(None)
        await browser.until("document.getElementById('state').dataset.state === 'failed'")
        for name in ("speed", "width", "queue", "step", "pages", "finished"):
            await browser.until(f"document.getElementById('{name}').textContent === '–'")
        feed.gone = False
        feed.put(event(SCRIPT[3:4], generation_tokens=6, iterations=4, iteration_rows=6))
        await browser.until("document.getElementById('width').textContent !== '–'")

    watching(scenario)


def test_a_page_that_nobody_sees_watches_nothing() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        async def hide(hidden: bool) -> None:
            await browser.value(
                f"Object.defineProperty(document, 'hidden', {{value: {json.dumps(hidden)}, configurable: true}});"
                "document.dispatchEvent(new Event('visibilitychange'))"
            )

        await browser.until("document.getElementById('state').dataset.state === 'live'")
        assert feed.open == 1
        await hide(True)
        await browser.until("document.getElementById('state').textContent === 'paused while hidden'")
        for _ in range(100):
            feed.put(event([]))  # a server finds out when it writes
            await asyncio.sleep(0.02)
            if not feed.open:
                break
        assert feed.open == 0
        await hide(False)
        await browser.until("document.getElementById('state').dataset.state === 'live'")
        assert feed.made == 2

    watching(scenario)


def test_nothing_runs_that_the_page_did_not_bring() -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        await browser.value("document.body.append(Object.assign(document.createElement('script'), {text: 'ran = 1'}))")
        await browser.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"ran = 1\">')")
        async with asyncio.timeout(15):
            while sum("Content Security Policy" in problem for problem in browser.problems) < 2:
                await asyncio.sleep(0.02)
        assert await browser.value("typeof ran") == "undefined"
        browser.problems.clear()

    watching(scenario)


@pytest.mark.parametrize("width", [360, 1600])
def test_it_fits_narrow_and_wide_screens_light_and_dark(width: int) -> None:
    async def scenario(browser: Browser, feed: Feed) -> None:
        feed.put(event(SCRIPT[:5]))
        await browser.until("window.flover.timeline.lastStep === 4")
        shown = set()
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await browser.call("Emulation.setEmulatedMedia", features=features)
            shown.add(await browser.value("getComputedStyle(document.body).backgroundColor"))
            assert await browser.value("document.documentElement.scrollWidth") == width
            await browser.until(
                "window.flover.view.colours.surface === getComputedStyle(document.documentElement)"
                ".getPropertyValue('--surface').trim()"
            )
        assert len(shown) == 2

    watching(scenario, width=width)


# The timeline alone


def timeline(events: list[bytes], question: str) -> Any:
    """What `question` says of the page's timeline after events, each a second after the other; nothing else runs."""
    feed = "".join(one.decode() for one in events)
    program = (
        f"(() => {{ {TIMELINE}\n const timeline = new Timeline(20);"
        f"splitEvents({json.dumps(feed)}).events.forEach((event, i) => timeline.apply(event, i));"
        f"return {question}; }})()"
    )

    async def run() -> Any:
        async with Browser() as browser:
            return await browser.value(program)

    return asyncio.run(run())


def test_rows_become_spans_moves_and_ends() -> None:
    question = """[
      timeline.rows.map((spans) => spans.map((one) => [one.sequence, one.kind[0], one.from, one.to])),
      timeline.moves, timeline.ends.map((end) => [end.sequence, end.row, end.x, end.reason]),
      timeline.columns.map((column) => column.freed), timeline.columns[1].share,
    ]"""
    spans, moves, ends, freed, share = timeline([facts_event(), event(SCRIPT)], question)
    assert spans == [
        [[0, "p", 0, 1], [0, "g", 1, 4], [2, "g", 4, 8]],
        [[1, "p", 0, 2], [1, "g", 2, 5], [1, "p", 6, 7], [1, "g", 7, 8]],
        [[2, "p", 2, 3], [2, "g", 3, 4]],
    ]
    assert moves == [{"x": 4, "sequence": 2, "src": 2, "dst": 0}]
    assert ends == [[0, 0, 4, "stop"], [1, 1, 5, "preempted"], [2, 0, 8, "length"], [1, 1, 8, "abort"]]
    assert freed == [0, 0, 0, 0, 10, 10, 0, 0]
    assert share == {"preprocessing": 6.0, "generation": 2.0, "dead": 0}


def test_a_window_that_begins_later_has_dead_rows_and_a_restart_begins_anew() -> None:
    later = iteration(5, [7, DEAD, 8, 9], first=3, generating=[3, 5])
    question = "[timeline.rows.map((spans) => spans.map((one) => [one.sequence, one.kind])), timeline.last.share.dead]"
    rows, dead = timeline([facts_event(), event(SCRIPT), event([later])], question)
    assert [row for row in rows if row] == [
        [[7, "generating"]],
        [[-1, "dead"]],
        [[8, "generating"]],
        [[9, "held"]],
    ]
    assert [bool(row) for row in rows] == [False] * 3 + [True] * 4
    assert dead == pytest.approx(8 / 3)


def test_speed_is_that_of_the_last_seconds_and_the_past_is_forgotten() -> None:
    many = [iteration(step, [step // 5], generating=[0]) for step in range(200)]
    for i in range(4, 200, 5):
        many[i] = msgspec.structs.replace(many[i], left=[(i // 5, "stop")])
    events = [facts_event(), *(event(many[10 * i : 10 * i + 10], generation_tokens=30 * i) for i in range(20))]
    sizes = "timeline.columns.length, timeline.sequences.size"
    question = f"[timeline.rate(20), timeline.rate(23), {sizes}, timeline.at(199).step]"
    rate, idle, columns, sequences, step = timeline(events, question)
    assert rate == pytest.approx(30)
    assert idle == 0
    assert columns <= 25
    assert sequences <= 6
    assert step == 199


# The true server


def test_real_requests_make_real_lanes(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    server = start("--delay", "0.01")

    async def post(prompt: str, count: int) -> Any:
        body = {"prompt": prompt, "max_tokens": count, "ignore_eos": True}
        return await asyncio.to_thread(server.post, "/v1/completions", body)

    async def run() -> None:
        async with Browser() as browser:
            await browser.open(f"{server.url}/dashboard")
            await browser.until("document.getElementById('state')?.dataset.state === 'live'")
            assert await browser.value(LANES) == []
            answers = asyncio.gather(post("one", 150), post("another", 400))
            await browser.until("window.flover.lanes().length === 2")
            assert [lane[3] for lane in await lanes(browser)] == [None, None]
            await browser.until("window.flover.lanes().some((lane) => lane.reason)")
            assert sorted(str(lane[3]) for lane in await lanes(browser)) == ["None", "length"]
            await answers
            await browser.until("window.flover.lanes().every((lane) => lane.reason === 'length')")
            lengths = sorted(lane[2] for lane in await lanes(browser))
            assert lengths == [150, 400], "the first token comes with the prompt's chunk"
            (tmp_path / "dashboard.png").write_bytes(await browser.screenshot())
            assert (tmp_path / "dashboard.png").stat().st_size > 10_000
            assert browser.problems == []

    asyncio.run(run())
