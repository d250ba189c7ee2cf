"""Law L14, exit truth: whichever of a server's processes is ended, soon no process, port, temporary file or shared
memory of it is left, and no client was given an end that looks like success."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support.servers import LONG, ServerProcess, read_events, running, wait_gone

from flover.ipc.restarts import MOST_RESTARTS

pytestmark = pytest.mark.alone


class Reader:
    """A stream, as far as it comes."""

    def __init__(self, server: ServerProcess) -> None:
        self.text = ""
        self._url = server.url
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with httpx.stream(
                "POST", f"{self._url}/v1/completions", json={**LONG, "stream": True}, timeout=30
            ) as answer:
                for text in answer.iter_text():
                    self.text += text
        except httpx.HTTPError:
            return

    def end(self) -> str:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.text


def looks_finished(text: str) -> bool:
    """Whether a client would take this for a whole answer."""
    complete = text[: text.rindex("\n\n") + 2] if "\n\n" in text else ""
    events: list[Any] = read_events(complete) if complete else []
    told = [event for event in events if event != "[DONE]"]
    ends = [choice["finish_reason"] for event in told for choice in event.get("choices", ())]
    return any(ends) or ("[DONE]" in events and not any("error" in event for event in told))


def litter() -> set[Path]:
    folders = [Path(tempfile.gettempdir()), Path("/dev/shm")]
    return {path for folder in folders if folder.exists() for path in folder.glob("*flover*")}


@pytest.mark.parametrize("how", ["kill the server", "terminate twice", "kill the engine for good", "kill both"])
def test_nothing_is_left_and_no_answer_looks_finished(start: Callable[..., ServerProcess], how: str) -> None:
    before = litter()
    server = start("--delay", "0.01", server={"shutdown_timeout": 20})
    readers = [Reader(server) for _ in range(5)]
    running(server, 5)
    ours = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    engine = server.engine
    if how == "kill the server":
        server.process.kill()
    elif how == "terminate twice":
        server.process.send_signal(signal.SIGTERM)
        server.expect("shutting down")
        server.process.send_signal(signal.SIGTERM)
    elif how == "kill both":
        server.process.kill()
        engine.kill()
    else:
        for count in range(MOST_RESTARTS + 1):
            server.until(lambda count=count: count in (0, server.metric("engine_restarts_total")))
            ours.append(server.engine)
            os.kill(server.engine.pid, signal.SIGKILL)
    server.process.wait(20)
    for process in ours:
        wait_gone(process)
    assert not any(looks_finished(reader.end()) for reader in readers)
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)
    assert litter() <= before


def test_what_looks_finished_is_seen() -> None:
    assert looks_finished('data: {"choices": [{"finish_reason": "stop"}]}\n\n')
    assert looks_finished("data: [DONE]\n\n")
    assert not looks_finished('data: {"choices": [{"finish_reason": null}]}\n\ndata: {"choi')
    assert not looks_finished('data: {"error": {}}\n\ndata: [DONE]\n\n')
