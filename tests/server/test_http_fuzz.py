"""Random bytes and half-valid requests against the protocol class, with a clock that jumps: whatever comes, what
is held stays within the limits, nothing raises, and in the end each connection has been answered or closed."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from http_wire import echo, statuses
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzz import Fuzzer
from uvicorn.server import ServerState

from flover.config import Limits
from flover.server.http_body import BodyLimit
from flover.server.http_config import HttpConfig
from flover.server.http_connections import Connections
from flover.server.http_protocol import MAX_PIPELINED, HttpProtocol

LIMITS = Limits(max_header_bytes=512, max_header_count=8, max_url_bytes=128, max_body_bytes=1024)


class JumpingSelector(selectors.DefaultSelector):
    """Does not wait, but tells for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes at once."""

    def __init__(self) -> None:
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


class Transport:
    """Takes what is written."""

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self.written = b""
        self.closed = self.eof = False

    def write(self, data: bytes) -> None:
        assert not self.eof
        if not self.closed:
            self.written += data

    def write_eof(self) -> None:
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """The client of this test goes on."""

    resume_reading = pause_reading

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0


async def checked(scope: Any, receive: Any, send: Any) -> None:
    """The application sees no more of a head than may be; what it raises would be a 500."""
    assert len(scope["headers"]) <= LIMITS.max_header_count
    assert len(scope["raw_path"]) + len(scope["query_string"]) <= LIMITS.max_url_bytes
    assert not [name for name, _ in scope["headers"] if name == b"x-trailer"]
    await echo(scope, receive, send)


def check_what_is_held(protocol: HttpProtocol) -> None:
    """The head that is being read, the requests that wait, and their bodies."""
    if protocol.scope is not None:
        assert len(protocol.url) <= LIMITS.max_header_bytes
        assert len(protocol.headers) <= LIMITS.max_header_count + 1
        # What follows another request in the same piece is counted from the next piece on.
        assert sum(len(name) + len(value) for name, value in protocol.headers) <= 2 * LIMITS.max_header_bytes
    assert len(protocol.pipeline) <= MAX_PIPELINED
    assert sum(len(cycle.body) for cycle, _ in protocol.pipeline) <= LIMITS.max_body_bytes
    if protocol.cycle is not None:
        assert len(protocol.cycle.body) <= 2 * (LIMITS.max_body_bytes + LIMITS.max_header_bytes)


LINES = """Host: a
A: b
Expect: 100-continue
Connection: close
Connection: Upgrade
Upgrade: h2c
Content-Length: 5
Content-Length: 99999
Transfer-Encoding: chunked
Transfer-Encoding: gzip, chunked
Content-Encoding: gzip
Host:
: x
no colon
 folded"""
FIRST = """GET / HTTP/1.1
GET / HTTP/1.0
GET / HTTP/2.0
GET /
HEAD / HTTP/1.1
POST /v1/x?y HTTP/1.1
CONNECT a:1 HTTP/1.1
CONNECT / HTTP/1.1
PRI * HTTP/2.0
OPTIONS * HTTP/1.1
GET %zz HTTP/1.1
GET /%ff%00 HTTP/1.1
GET http://a HTTP/1.1
get / http/1.1"""
TRAILERS = [b"X-Trailer: a\r\n", b"X-Trailer:" + b"a" * 700 + b"\r\n"]
NOISE = [b"\r\n", b"\r\n" * 600, b"A: b\r\n" * 50, b"5\r\naaaaa\r\n", b"0", b"GET / HTTP/1.1\r\nA"]
UPGRADE = b"Connection: upgrade\r\nUpgrade: x\r\n"

line = st.sampled_from([*LINES.encode().split(b"\n"), b"A:" + b"a" * 300, b"A\0: b"])
first = st.sampled_from([*FIRST.encode().split(b"\n"), b"GET /" + b"a" * 200 + b" HTTP/1.1"])
head = st.builds(lambda one, more: b"\r\n".join([one, *more]) + b"\r\n\r\n", first, st.lists(line, max_size=12))
size = st.integers(1, 2000)
chunk = st.builds(lambda size, extra: b"%x;%b\r\n%b\r\n" % (size, b"x" * extra, b"a" * size), size, size)
chunked = st.builds(
    lambda *parts: b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n%b\r\n%b0\r\n%b\r\n" % parts,
    st.sampled_from([b"", b"", UPGRADE]),
    st.lists(chunk, max_size=4).map(b"".join),
    st.lists(st.sampled_from(TRAILERS), max_size=12).map(b"".join),
)
small = st.just(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
lines = st.integers(1, 60).map(lambda count: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * count + b"\r\n")
noise = st.one_of(st.binary(max_size=60), st.sampled_from(NOISE))
script = st.lists(
    st.one_of(head, chunked, lines, small, small.map(lambda one: one * 40), noise), min_size=1, max_size=6
)


def drive(script: list[bytes], cuts: list[int], pause: float, apart: bool) -> None:
    """Send a script to a protocol of its own, cut there or piece by piece, with pauses, and check what it holds and
    answers."""
    problems: list[Any] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(context))
        connections = Connections(8, 1024)
        config = HttpConfig(BodyLimit(checked, LIMITS), LIMITS, connections, HttpProtocol)
        config.load()
        protocol = HttpProtocol(config, ServerState(), {}, loop)
        transport = Transport(protocol)
        protocol.connection_made(transport)  # type: ignore[arg-type]
        data = b"".join(script)
        for cut in map(len, script) if apart else [*cuts, len(data)]:
            if data and not transport.closed:
                protocol.data_received(data[:cut])
                check_what_is_held(protocol)
            data = data[cut:]
            await asyncio.sleep(pause)
        await asyncio.sleep(1000)
        assert transport.closed
        assert not connections.over_limit
        assert connections.evict_for(protocol)
        assert set(statuses(transport.written)) <= {100, 200, 400, 405, 408, 413, 414, 415, 431, 501, 505}
        assert b"x-trailer" not in transport.written.lower()
        assert len(transport.written) <= 2000 * (1 + b"".join(script).count(b"HTTP/"))

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(scenario())
    assert problems == []


@settings(max_examples=400, deadline=None)
@given(
    script=script,
    cuts=st.lists(st.integers(1, 3000), max_size=20),
    pause=st.sampled_from([0.0, 0.0, 1.0, 7.0]),
    apart=st.booleans(),
)
def test_whatever_comes_is_bounded_and_ends(script: list[bytes], cuts: list[int], pause: float, apart: bool) -> None:
    drive(script, cuts, pause, apart)


def test_mutated_requests(fuzzer: Fuzzer) -> None:
    firsts, others = FIRST.encode().split(b"\n"), LINES.encode().split(b"\n")
    heads = [b"%b\r\n%b\r\n\r\n" % (one, other) for one in firsts for other in others]
    begun = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    bodies = [begun + one for one in [*TRAILERS, *NOISE]]

    def check(data: bytes) -> None:
        drive([data], [1 + len(data) // 3] * 2, float(len(data) % 2), apart=len(data) % 3 == 0)

    assert fuzzer.run("http", [*heads, *bodies], check, limit=2.0)
