"""The limits of connections, heads and bodies on the wire, before any route."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from http_wire import HEAD, echo, error_of, run, statuses, wire

from flover.server.errors import ClientGone
from flover.server.http_connections import Connections, allow_descriptors
from flover.server.http_protocol import MAX_PIPELINED
from flover.server.sse import until_disconnect

GET = b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /v1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "names"),
    [
        ([b"GET / HTTP/1.1\r\nA: " + b"a" * 2**20], 431, "--max-header-bytes 2048"),
        ([b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20], 431, "--max-header-count 16"),
        ([b"GET / HTTP/1.1\r\n", *[b"A" * 100] * 30], 431, "--max-header-bytes 2048"),
        ([b"GET /" + b"a" * 600 + b" HTTP/1.1\r\n\r\n"], 414, "--max-url-bytes 512"),
        ([b"GET /?" + b"a" * 600 + b" HTTP/1.1\r\n\r\n"], 414, "--max-url-bytes 512"),
        ([b"\r\n" * 3000], 431, "--max-header-bytes 2048"),
        ([b"\x16\x03\x01\x02\x00\x01\x00"], 400, "not HTTP/1.1"),
        ([b"GET / HTTP/2.0\r\n\r\n"], 505, "HTTP/1.1"),
        ([b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n"], 405, "CONNECT"),
        ([HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"], 400, "Content-Length"),
        ([HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na"], 400, "Content-Length"),
        ([HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], 400, "Content-Length"),
        ([HEAD + b"Content-Length: -1\r\n\r\n"], 400, "Content-Length"),
        ([HEAD + b"Content-Length: 5000\r\n\r\n"], 413, "--max-body-bytes 4096"),
        ([CHUNKED + b"\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n", b"1\r\na\r\n"], 413, "--max-body-bytes 4096"),
        ([CHUNKED + b"\r\n1;" + b"x" * 20000], 413, "--max-body-bytes 4096"),
        ([CHUNKED + b"\r\n", *[b"1;" + b"x" * 600 + b"\r\na\r\n"] * 30], 413, "--max-body-bytes 4096"),
        ([CHUNKED + b"\r\n0\r\n" + b"A: b\r\n" * 20], 431, "--max-header-count 16"),
        ([CHUNKED + b"\r\n0\r\nA: " + b"x" * 20000], 413, "--max-body-bytes 4096"),
        ([CHUNKED + b"\r\nzz\r\n"], 400, "chunk size"),
        ([HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"], 501, "gzip, chunked"),
        ([HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na"], 415, "gzip"),
        ([HEAD[:40]], 408, "--header-timeout 0.3"),
        ([HEAD + b"Content-Length: 9\r\n\r\nab"], 408, "--body-timeout 0.3"),
        ([HEAD + b"Content-Length: 9\r\n\r\n"], 408, "--body-timeout 0.3"),
        ([CHUNKED + b"\r\n"], 408, "--body-timeout 0.3"),
        ([CHUNKED + b"\r\n4\r\nab"], 408, "--body-timeout 0.3"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
)
def test_what_exceeds_a_limit_is_refused_in_words(parts: list[bytes], status: int, names: str) -> None:
    async def scenario() -> None:
        async with wire(
            max_header_bytes=2048,
            max_header_count=16,
            max_url_bytes=512,
            max_body_bytes=4096,
            header_timeout=0.3,
            body_timeout=0.3,
        ) as server:
            answer = await server.say(*parts, seconds=4)
            assert statuses(answer) == [status], answer
            assert names in error_of(answer)["message"]
            assert b"connection: close" in answer.lower()

    run(scenario)


@pytest.mark.parametrize("part", [1, 7, 1000])
def test_a_head_of_exactly_the_limit_passes_and_one_byte_more_does_not(part: int) -> None:
    async def scenario() -> None:
        async with wire(max_header_bytes=1024) as server:
            for length, status in ((1024, 200), (1025, 431)):
                head = b"GET /v1/x HTTP/1.1\r\nConnection: close\r\nA: "
                head += b"a" * (length - len(head) - 4) + b"\r\n\r\n"
                parts = [head[i : i + part] for i in range(0, length, part)]
                assert statuses(await server.say(*parts)) == [status]

    run(scenario)


@pytest.mark.parametrize(
    "early",
    [
        HEAD + b"Content-Length: 40000000\r\n\r\n",
        HEAD + b"Connection: close\r\nContent-Length: 40000000\r\n\r\n",
        CHUNKED + b"\r\n2625a00\r\n",
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_its_refusal(early: bytes) -> None:
    """40 MB: more than all buffers between the two."""

    async def scenario() -> None:
        async with wire() as server:
            answer = await server.say(early, *[b"a" * 400_000] * 100)
            assert statuses(answer) == [413]
            assert "--max-body-bytes" in error_of(answer)["message"]

    run(scenario)


def test_what_is_thrown_away_has_an_end() -> None:
    async def scenario() -> None:
        async with wire() as server:
            with pytest.raises((ConnectionError, BrokenPipeError)):
                await server.say(b"GET / HTTP/1.1\r\nA: ", *[b"a" * 2**20] * 400)

    run(scenario)


def test_trailers_are_no_headers() -> None:
    async def scenario() -> None:
        async with wire() as server:
            answer = await server.say(CHUNKED + b"\r\n1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n" + LAST)
            assert statuses(answer) == [200, 200]
            assert b"authorization" not in answer

    run(scenario)


@pytest.mark.parametrize("whole", [True, False])
def test_a_wish_to_upgrade_is_ignored_and_the_body_is_read(whole: bool) -> None:
    """Java's HttpClient sends it with every request; taking the body for a request would be worse than losing it."""

    async def scenario() -> None:
        async with wire() as server:
            head = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(
                GET
            )
            parts = [head + GET + LAST] if whole else [head, GET, LAST]
            answer = await server.say(*parts, pause=0.0 if whole else 0.05)
            assert statuses(answer) == [200, 200]
            assert b'"body": %d' % len(GET) in answer

    run(scenario)


def test_requests_one_after_the_other_are_answered_in_order() -> None:
    async def scenario() -> None:
        async with wire() as server:
            answer = await server.say(GET * 10 + HEAD + b"Content-Length: 3\r\n\r\nabc" + LAST)
            assert statuses(answer) == [200] * 12
            answer = await server.say(GET * 5 + b"NONSENSE\r\n\r\n")
            assert statuses(answer) == [200] * 5
            answer = await server.say(GET * 1000)
            assert statuses(answer) == [200] * (MAX_PIPELINED + 1)

    run(scenario)


def test_silence_is_ended_without_an_answer() -> None:
    async def scenario() -> None:
        async with wire(header_timeout=0.2, timeout_keep_alive=0.3) as server:
            assert await server.say(b"") == b""
            assert await server.say(b"\r\n") == b""
            assert statuses(await server.say(GET, b"\r\n", pause=0.05)) == [200]
            assert not server.state.connections

    run(scenario)


@pytest.mark.parametrize("stays", [True, False])
def test_a_client_that_has_ended_its_side_gets_its_response_and_one_that_has_left_ends_the_work(stays: bool) -> None:
    left, told, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        told.set()
        try:
            await until_disconnect(receive, go_on.wait())
        except ClientGone:
            left.set()
            return

        async def again() -> Any:
            return message

        await echo(scope, again, send)

    async def scenario() -> None:
        async with wire(app) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(HEAD + b"Content-Length: 3\r\n\r\nabc")
            if not stays:
                writer.close()
                async with asyncio.timeout(5):
                    await left.wait()
                return
            writer.write_eof()
            async with asyncio.timeout(5):
                await told.wait()
                await asyncio.sleep(0.3)
                assert not left.is_set()
                go_on.set()
                answer = await reader.read()
            assert statuses(answer) == [100, 200]
            await until(lambda: not server.state.connections)
            writer.close()

    run(scenario)


@pytest.mark.parametrize("sizes", [(0,), (5, 0), (5, 300, 7), (70_000, 0)])
def test_a_stream_has_no_chunks_for_a_client_of_http_1_0(sizes: tuple[int, ...]) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        for number, size in enumerate(sizes, 1):
            more = number < len(sizes)
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": more})

    async def scenario() -> None:
        async with wire(stream) as server:
            head = HEAD.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\n"
            answer = await server.say(head + b"Content-Length: 3\r\n\r\nabc")
            assert statuses(answer) == [200]
            told, _, body = answer.partition(b"\r\n\r\n")
            assert b"transfer-encoding" not in told.lower()
            assert body == b"x" * sum(sizes)

    run(scenario)


def test_a_client_that_does_not_read_is_left() -> None:
    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})

    async def scenario() -> None:
        async with wire(flood, send_timeout=0.3) as server:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**10)
            writer.write(GET)
            await until(lambda: bool(server.state.connections))
            await until(lambda: not server.state.connections)
            writer.close()

    run(scenario)


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# Many connections


def test_when_all_connections_are_busy_only_liveness_is_answered() -> None:
    release = asyncio.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/x":
            await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def scenario() -> None:
        async with wire(busy, max_connections=4) as server:
            open_ = [asyncio.create_task(server.say(LAST)) for _ in range(4)]
            await until(lambda: len(server.state.connections) == 4)
            for path in (b"/livez", b"/health", b"/readyz?x"):
                assert statuses(await server.say(b"GET " + path + b" HTTP/1.0\r\n\r\n")) == [200]
            answer = await server.say(GET)
            assert statuses(answer) == [503]
            assert b"retry-after" in answer.lower()
            assert "--max-connections" in error_of(answer)["message"]
            release.set()
            assert [statuses(answer) for answer in await asyncio.gather(*open_)] == [[200]] * 4

    run(scenario)


@pytest.mark.parametrize("held", [b"GET /", HEAD + b"Content-Length: 9\r\n\r\nab", b""])
def test_a_whole_request_takes_the_place_of_those_that_owe_theirs(held: bytes) -> None:
    async def scenario() -> None:
        async with wire(max_connections=20, header_timeout=60) as server:
            writers = []
            for _ in range(300):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(held)
                writers.append(writer)
            for _ in range(30):
                assert statuses(await server.say(LAST)) == [200]
            assert len(server.state.connections) <= server.connections.ceiling
            for writer in writers:
                writer.close()

    run(scenario)


def test_the_body_that_has_taken_longest_gives_way() -> None:
    async def scenario() -> None:
        half = HEAD + b"Content-Length: 100000\r\n\r\n" + b"a" * 90_000
        async with wire(max_pending_body_bytes=1_000_000) as server:
            stuck = [asyncio.create_task(server.say(half)) for _ in range(20)]
            await until(lambda: sum(task.done() for task in stuck) >= 9)
            whole = HEAD + b"Connection: close\r\nContent-Length: 300000\r\n\r\n"
            for _ in range(5):
                assert statuses(await server.say(whole, *[b"a" * 1000] * 300)) == [200]
            ended = [task.result() for task in stuck if task.done()]
            assert len(ended) >= 9
            assert {statuses(answer)[0] for answer in ended} == {503}
            assert "--max-pending-body-bytes" in error_of(ended[0])["message"]
            for task in stuck:
                task.cancel()

    run(scenario)


@pytest.mark.parametrize(("most", "descriptors"), [(1024, 64), (1024, 1024), (10, 4096), (1, 1), (1024, 130), (5, 200)])
def test_connections_leave_descriptors_for_others(most: int, descriptors: int) -> None:
    connections = Connections(most, descriptors)
    assert 1 <= connections.most <= connections.ceiling
    assert connections.most <= most
    assert connections.ceiling <= max(2, descriptors - min(64, descriptors // 2))


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        assert allow_descriptors(512) == 512
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 512
        assert allow_descriptors(100) == 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
