"""What the client takes for a tick, against streams written by hand and against a server that breaks."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from flover.bench.client import CHAT, COMPLETIONS, Client, Send, mean_width, note, parse_metrics
from flover.bench.metrics import RequestRecord


def read(events: list[dict]) -> RequestRecord:
    record = RequestRecord(sent=0.0)
    for now, event in enumerate(events, start=1):
        note(record, event, float(now))
    return record


def chat(finish: str | None = None, **delta: str) -> dict:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def completion(text: str, finish: str | None = None) -> dict:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}}


def test_the_chunks_that_open_and_close_a_chat_are_no_ticks() -> None:
    events = [chat(role="assistant", content=""), chat(content="a"), chat(content="b"), chat("stop"), USAGE]
    record = read(events)
    assert record.ticks == [2.0, 3.0]
    assert (record.end, record.text, record.prompt_tokens, record.output_tokens) == (4.0, "ab", 4, 2)
    assert record.ok


def test_the_last_token_may_come_with_the_finish_reason() -> None:
    record = read([completion("a"), completion("b", "length"), USAGE])
    assert record.ticks == [1.0, 2.0]
    assert record.end == 2.0


def test_without_a_tokenizer_every_chunk_before_the_closing_one_is_a_tick() -> None:
    assert read([completion(""), completion(""), completion("", "length")]).ticks == [1.0, 2.0]


def test_token_ids_decide_where_they_are() -> None:
    events = [completion(""), completion(""), completion("é", "length")]
    for event, ids in zip(events, ([5], [], [6, 7]), strict=True):
        event["choices"][0]["token_ids"] = ids
    assert read(events).ticks == [1.0, 3.0]


def test_an_error_in_the_stream_is_the_error_of_the_request() -> None:
    record = read([completion("a"), {"error": {"message": "the engine stopped"}}])
    assert record.error == "the engine stopped"
    assert not record.ok


def test_samples_are_summed_over_labels() -> None:
    text = '# HELP flover:x help\n# TYPE flover:x counter\nflover:x{model="a",k="b c"} 2.0\nflover:x{model="b"} 3\n'
    assert parse_metrics(text) == {"x": 5.0}


def test_mean_width_is_rows_per_iteration_between_two_readings() -> None:
    before = {"iteration_rows_sum": 10.0, "iteration_rows_count": 10.0}
    after = {"iteration_rows_sum": 74.0, "iteration_rows_count": 14.0}
    assert mean_width(before, after) == 16.0
    assert mean_width(after, after) is None


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def ask(handler: Handler, sends: list[Send]) -> list[RequestRecord]:
    app = web.Application()
    app.router.add_post(COMPLETIONS, handler)
    app.router.add_post(CHAT, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    try:
        async with Client(f"http://127.0.0.1:{port}") as client:
            return await client.all_at_their_time(sends)
    finally:
        await runner.cleanup()


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": "no such field"}}, status=400)


async def break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\n')
    request.transport.close()
    return response


async def say_nothing(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest.mark.parametrize(("handler", "words"), [(refuse, "400"), (break_off, "Error"), (say_nothing, "no token")])
def test_what_goes_wrong_is_in_the_record(handler: Handler, words: str) -> None:
    (record,) = asyncio.run(ask(handler, [Send(0.0, COMPLETIONS, {"model": "m"})]))
    assert not record.ok
    assert words in record.error


def test_requests_go_out_at_their_own_time() -> None:
    bodies: list[dict] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return await say_nothing(request)

    sends = [Send(0.12, COMPLETIONS, {"name": "late"}), Send(0.0, CHAT, {"name": "early"})]
    late, early = asyncio.run(ask(answer, sends))
    assert [body["name"] for body in bodies] == ["early", "late"]
    assert all(body["stream"] and body["stream_options"] == {"include_usage": True} for body in bodies)
    assert late.sent - early.sent == pytest.approx(0.12, abs=0.1)
