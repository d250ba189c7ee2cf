"""`bench serve` against servers: one that costs nothing, one that refuses, one that breaks off, none at all."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from flover.bench.client import CHAT, COMPLETIONS, Client, Send
from flover.bench.metrics import RequestRecord
from flover.bench.server import ServerProcess
from flover.bench.serving.benchmark import Measured, measure_serving
from flover.bench.serving.choose import Data, ServeOptions
from flover.bench.serving.datasets import Draw, RandomPrompts, SampleRequest
from flover.bench.serving.null_server import answer, null_server
from flover.bench.serving.options import ResultOptions, Sampling, ServerOptions, Traffic
from flover.bench.serving.run import ServingRun, ServingWorkload, serve_all
from flover.errors import EngineError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture(scope="module")
def null_url() -> Iterator[str]:
    with null_server() as server:
        yield server.url


def work(num: int, output_len: int = 4, **changes: Any) -> ServingWorkload:
    samples = RandomPrompts(random_input_len=8, random_output_len=output_len).samples(num, Draw(seed=0))
    values = {"samples": samples, "times": [0.0] * num, "warmups": [], "probe": samples[0], "fields": {}, **changes}
    return ServingWorkload(**values)


def serve(url: str, given: ServingWorkload, traffic: Traffic | None = None, **target: Any) -> ServingRun:
    return asyncio.run(serve_all(ServerOptions(base_url=url, **target), traffic or Traffic(), given))


async def _with_server(handler: Handler, act: Callable[[str], Awaitable[Any]]) -> Any:
    app = web.Application()
    for path in (COMPLETIONS, CHAT, "/start_profile", "/stop_profile"):
        app.router.add_post(path, handler)
    app.router.add_get("/v1/models", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await act(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


def against(handler: Handler, given: ServingWorkload, traffic: Traffic | None = None, **target: Any) -> ServingRun:
    async def act(url: str) -> ServingRun:
        options = ServerOptions(base_url=url, **{"model": "m", **target})
        return await serve_all(options, traffic or Traffic(), given)

    return asyncio.run(_with_server(handler, act))


@pytest.mark.parametrize("backend", ["openai", "vllm", "flover", "openai-chat"])
def test_the_null_server_brings_what_was_asked_for(null_url: str, backend: str) -> None:
    given = work(5, output_len=7)
    if backend == "openai-chat":
        given = work(5, samples=[SampleRequest("hello", 7)] * 5)
    served = serve(null_url, given, backend=backend)
    assert served.model == "null"
    assert [record.error for record in served.records] == [None] * 5
    assert {(record.output_tokens, len(record.ticks)) for record in served.records} == {(7, 7)}
    assert {record.prompt_tokens for record in served.records} == {1 if backend == "openai-chat" else 8}
    assert served.counted == ""


def test_every_token_of_the_null_server_has_a_chunk_of_its_own() -> None:
    chunks = answer(3, 4, False)
    assert len(chunks) == 4 + 2
    for chunk in chunks:
        size, _, rest = chunk.partition(b"\r\n")
        assert rest[int(size, 16) :] == b"\r\n"
    texts = [json.loads(chunk.split(b"data: ")[1])["choices"][0]["finish_reason"] for chunk in chunks[:4]]
    assert texts == [None, None, None, "length"]


@pytest.mark.alone
def test_gaps_are_measured_as_they_are() -> None:
    with null_server(gap_ms=20.0) as server:
        served = serve(server.url, work(4, output_len=10))
    gaps = sorted(gap for record in served.records for gap in record.gaps)
    assert len(gaps) == 4 * 9
    assert gaps[len(gaps) // 2] == pytest.approx(0.02, rel=0.2)
    assert served.records[0].ttft == pytest.approx(0.02, abs=0.02)


@pytest.mark.alone
def test_the_client_costs_little_per_token(null_url: str) -> None:
    served = serve(null_url, work(64, output_len=256))
    per_token = 1e6 * served.cpu_seconds / (64 * 256)
    assert per_token < 100, f"{per_token:.1f} us of processor time per token"


def test_the_limit_of_concurrency_holds() -> None:
    now = most = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return await whole_answer(request)

    served = against(slow, work(9), Traffic(max_concurrency=3))
    assert most == 3
    assert all(record.ok for record in served.records)


async def whole_answer(request: web.Request, *, usage: bool = True, end: bool = True) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for text in ("a", "b", "c"):
        await response.write(_event({"choices": [{"index": 0, "text": text, "finish_reason": None}]}))
    if usage:
        counts = {"prompt_tokens": 8, "completion_tokens": 5}
        await response.write(_event({"choices": [], "usage": counts}))
    if end:
        await response.write(b"data:[DONE]\n\n")
    return response


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def full(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": "too many open requests"}}, status=429)


async def cut(request: web.Request) -> web.StreamResponse:
    return await whole_answer(request, end=False)


async def gone(request: web.Request) -> web.StreamResponse:
    response = await whole_answer(request, end=False)
    request.transport.close()
    return response


async def strange(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"data: {not json\n\n" + _event({"choices": [1]}) + b"data: [DONE]\n\n")
    return response


@pytest.mark.parametrize(
    ("handler", "words"),
    [(full, "429: "), (cut, "ended early"), (gone, "Error"), (strange, "not as OpenAI's")],
)
def test_requests_that_fail_are_counted_with_their_reason(handler: Handler, words: str) -> None:
    served = against(handler, work(3))
    assert not any(record.ok for record in served.records)
    assert all(words in record.error for record in served.records)


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(EngineError, match=r"cannot connect to .*: connection refused"):
        serve(url, work(1))
    with pytest.raises(EngineError, match=r"did not answer within 0\.1 s"):
        serve(url, work(1), Traffic(ready_check_timeout_sec=0.1), model="m")
    served = serve(url, work(2), model="m")
    assert all("cannot connect" in record.error for record in served.records)


def test_a_refusal_is_not_waited_for() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "no such field"}}, status=400)

    with pytest.raises(EngineError, match="refuses the first request: 400"):
        against(refuse, work(1), Traffic(ready_check_timeout_sec=60.0))


def test_warm_ups_that_fail_end_the_run() -> None:
    with pytest.raises(EngineError, match="2 of 2 warm-up requests failed: 429"):
        against(full, work(1, warmups=work(2).samples))


def test_warm_ups_come_first_and_do_not_count() -> None:
    asked: list[int] = []

    async def note(request: web.Request) -> web.StreamResponse:
        asked.append((await request.json())["max_tokens"])
        return await whole_answer(request)

    served = against(note, work(2, warmups=work(3, output_len=9).samples))
    assert asked == [9, 9, 9, 4, 4]
    assert len(served.records) == 2


def test_neither_warm_ups_nor_the_ready_check_send_a_prompt_that_counts() -> None:
    prompts: list[tuple[int, ...]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        prompts.append(tuple((await request.json())["prompt"]))
        return await whole_answer(request)

    async def act(url: str) -> Measured:
        return await asyncio.to_thread(measure_serving, options_for(url))

    def options_for(url: str) -> ServeOptions:
        return ServeOptions(
            target=ServerOptions(base_url=url, model="m"),
            data=Data(num_prompts=3),
            dataset=RandomPrompts(random_input_len=8),
            traffic=Traffic(num_warmups=4, ready_check_timeout_sec=5.0),
            sampling=Sampling(),
            results=ResultOptions(),
        )

    measured = asyncio.run(_with_server(note, act))
    assert measured.figures.completed == 3
    assert len(prompts) == 1 + 4 + 3
    assert set(prompts[:5]).isdisjoint(prompts[5:])


def test_a_server_without_a_profiler_is_told_on() -> None:
    async def no_profiler(request: web.Request) -> web.StreamResponse:
        if request.path == "/start_profile":
            return web.Response(status=404, text="no such route")
        return await whole_answer(request)

    with pytest.raises(EngineError, match="/start_profile answers 404"):
        against(no_profiler, work(1), Traffic(profile=True))


def test_tokens_are_counted_here_where_the_server_does_not() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        return await whole_answer(request, usage=False)

    served = against(silent, work(2))
    assert [record.output_tokens for record in served.records] == [3, 3]
    assert [record.prompt_tokens for record in served.records] == [8, 8]
    assert "chunks were counted" in served.counted
    assert against(whole_answer, work(1)).counted == ""


def test_flover_is_asked_for_token_ids_under_a_salt_of_each_part() -> None:
    bodies: list[dict[str, Any]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.json())
        return await whole_answer(request)

    given = work(2, warmups=work(1).samples, fields={"ignore_eos": True})
    against(note, given, backend="flover")
    assert all(body["return_token_ids"] and body["ignore_eos"] for body in bodies)
    assert len({body["cache_salt"] for body in bodies}) == 2
    against(note, given)
    assert "cache_salt" not in bodies[-1]


def test_every_request_carries_the_headers() -> None:
    seen: list[str | None] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return await whole_answer(request)

    against(note, work(2), api_key="secret")
    assert seen == ["Bearer secret"] * 2


def test_thoughts_are_tokens() -> None:
    async def think(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for delta in ({"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "so"}):
            await response.write(_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def act(url: str) -> RequestRecord:
        async with Client(url) as client:
            return await client.stream(Send(0.0, CHAT, {"model": "m"}))

    record = asyncio.run(_with_server(think, act))
    assert (len(record.ticks), record.text, record.error) == (2, "hmso", None)


def test_flover_itself() -> None:
    flags = ["--num-threads=1", "--kv-cache-memory-bytes=8MiB", "--max-num-seqs=4"]
    given = work(3, samples=RandomPrompts(random_input_len=40).samples(3, Draw(seed=0)), fields={"ignore_eos": True})
    chat = work(1, samples=[SampleRequest("Tell me a story.", 6)], fields={"ignore_eos": True})
    with ServerProcess(flags) as server:
        runs = [serve(server.url, given, backend=backend) for backend in ("flover", "flover", "openai", "openai")]
        told = serve(server.url, chat, backend="openai-chat")
    for served in runs:
        assert [(record.error, record.prompt_tokens, record.output_tokens) for record in served.records] == [
            (None, 40, 128)
        ] * 3
    assert all(len(record.ticks) == 128 for served in runs[:2] for record in served.records)
    cached = [sum(record.cached_tokens for record in served.records) for served in runs]
    assert cached[:3] == [0, 0, 0]  # a salt of its own for each run
    assert cached[3] >= 3 * 32
    (record,) = told.records
    assert (record.error, record.output_tokens) == (None, 6)
    assert record.text


# The command


def flover(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "flover", *words], capture_output=True, text=True, check=False)


def test_the_command_prints_the_block_and_one_json_line(null_url: str, tmp_path: Path) -> None:
    words = ["--num-prompts=6", "--input-len=8", "--output-len=5", "--disable-tqdm", "--api-key=hidden"]
    words += ["--goodput", "ttft:60000", "--save-result", "--save-detailed", f"--result-dir={tmp_path}"]
    words += ["--metadata", "host=desk", "--max-concurrency=2", "--num-warmups=2", "--request-rate=500"]
    done = flover("bench", "serve", f"--base-url={null_url}", *words)
    assert done.returncode == 0, done.stderr
    assert "Request goodput (req/s):" in done.stdout
    assert "hidden" not in done.stdout
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["benchmark"], line["completed"], line["total_output_tokens"], line["host"]) == ("serve", 6, 30, "desk")
    assert line["request_goodput"] == pytest.approx(line["request_throughput"])
    (path,) = tmp_path.glob("openai-500.0qps-concurrency2-null-*.json")
    saved = json.loads(path.read_text())
    assert saved["output_lens"] == [5] * 6
    assert [len(gaps) for gaps in saved["itls"]] == [4] * 6


def test_a_run_in_which_everything_failed_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    done = flover("bench", "serve", f"--port={port}", "--model=m", "--num-prompts=2", "--input-len=4")
    assert done.returncode == 1
    assert done.stdout == "", "no table of zeros"
    assert done.stderr.startswith("flover bench serve: error: all 2 requests failed; the first: cannot connect to")


def test_the_command_refuses_in_one_line() -> None:
    done = flover("bench", "serve", "--dataset-name=sharegpt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "would have to be downloaded" in done.stderr
