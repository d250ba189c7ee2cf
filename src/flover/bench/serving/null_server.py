"""A null server: answers at once with the requested number of tokens, one per chunk, to measure the client's overhead.

`python -m flover.bench.serving.null_server [--gap-ms X]`. A response is rendered once for each length; with a gap, its
chunks are sent one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from functools import cache
from typing import Any, cast

import uvloop

from flover.bench.routes import CHAT, COMPLETIONS
from flover.bench.server import ServerProcess

MODEL = "null"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


def null_server(gap_ms: float = 0.0) -> ServerProcess:
    """The server as a child process; use as a context manager."""
    server = ServerProcess([], patience=20.0)
    server.command = [sys.executable, "-m", "flover.bench.serving.null_server", "--gap-ms", str(gap_ms)]
    return server


@cache
def answer(prompt_len: int, num_tokens: int, chat: bool) -> tuple[bytes, ...]:
    """A stream of `num_tokens` tokens as HTTP chunks."""
    reasons = [None] * (num_tokens - 1) + ["length"]
    events = [_event(" x", chat, reason) for reason in reasons]
    total = prompt_len + num_tokens
    usage = {"prompt_tokens": prompt_len, "completion_tokens": num_tokens, "total_tokens": total}
    events.append({"object": "usage", "choices": [], "usage": usage})
    chunks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return tuple(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b"data: [DONE]\n\n"))


def _event(text: str, chat: bool, reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": "cmpl-0", "object": kind, "created": 0, "model": MODEL, "choices": [choice]}


class _NullConnection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, gap, rest = self._received.partition(b"\r\n\r\n")
        length = _content_length(head)
        if gap and len(rest) >= length:
            self._received = rest[length:]
            self._reply(head.split(b" ", 2)[1].decode(), rest[:length])

    def _reply(self, path: str, body: bytes) -> None:
        if path in (COMPLETIONS, CHAT):
            asked = json.loads(body)
            prompt = asked.get("prompt")
            prompt_len = len(prompt) if isinstance(prompt, list) else 1
            self._stream(answer(prompt_len, max(1, asked.get("max_tokens", 16)), path == CHAT))
        elif path == "/v1/models":
            self._json({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        else:
            self._json({"status": "ok"})

    def _stream(self, chunks: tuple[bytes, ...]) -> None:
        if self._gap == 0:
            self._transport.write(_HEAD + b"".join(chunks) + _END)
        else:
            self._transport.write(_HEAD)
            asyncio.get_running_loop().call_later(self._gap, self._next, chunks, 0)

    def _next(self, chunks: tuple[bytes, ...], place: int) -> None:
        """Write one chunk, and after the last token the end of the response."""
        last = place >= len(chunks) - 3
        self._transport.write(b"".join(chunks[place:]) + _END if last else chunks[place])
        if not last:
            asyncio.get_running_loop().call_later(self._gap, self._next, chunks, place + 1)

    def _json(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


async def _serve(gap: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _NullConnection(gap), "127.0.0.1", 0, backlog=4096)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="null_server")
    parser.add_argument("--gap-ms", type=float, default=0.0)
    gap = parser.parse_args().gap_ms / 1e3
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(gap))


if __name__ == "__main__":
    main()
