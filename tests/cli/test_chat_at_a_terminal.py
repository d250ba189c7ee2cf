"""`flover chat` in a terminal of its own, with a server of the test's: what is typed, what is shown, Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_http import FakeHandler, FakeServer, serving

LONG = "a slow answer that is interrupted "
HUNG_SECONDS = 120.0
"""After so long a process hangs. It is no bound of its speed, which depends on what else the machine does."""


class OpenAI(FakeHandler):
    """Answers with how many messages it got; to "slow" with a beginning and then nothing; to "break" with a 400."""

    def get(self) -> None:
        self.answer(200, json.dumps({"data": [{"id": "served"}]}))

    def post(self, body: Any) -> None:
        messages = body["messages"]
        self.server.seen.append(messages)
        asked = messages[-1]["content"]
        if asked == "break":
            self.answer(400, json.dumps({"error": {"message": "no such thing"}}))
        elif asked == "slow":
            self.answer(200, self._event(LONG), more=True)
            self.server.ended.wait()
        else:
            usage = f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': 7}})}\n\n"
            self.answer(200, self._event(f"<{len(messages)} messages>") + usage + "data: [DONE]\n\n")

    def _event(self, text: str) -> str:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        return f"data: {json.dumps({'choices': [choice]})}\n\n"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(OpenAI) as made:
        yield made


class Terminal:
    """`flover chat` in a terminal of 60 columns."""

    def __init__(self, server: FakeServer) -> None:
        self._mine, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flover", "chat", "--url", server.url],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "60"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C reaches it
        )
        os.close(theirs)

    def until(self, pattern: str) -> str:
        """Read what is shown until the pattern is in it; what was not looked at before, up to the match."""
        deadline = time.monotonic() + HUNG_SECONDS
        while not (match := re.search(pattern, self.shown, flags=re.DOTALL)):
            self._read(0.1, deadline)
        found, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return found

    def _read(self, seconds: float, deadline: float) -> bool:
        """Wait so long for more to be shown; whether there was any."""
        assert time.monotonic() < deadline, self.shown
        assert self.process.poll() is None, self.shown
        if not select.select([self._mine], [], [], seconds)[0]:
            return False
        self.shown += os.read(self._mine, 65536).decode(errors="replace")
        return True

    def type(self, keys: str) -> None:
        os.write(self._mine, keys.encode())

    def interrupt(self) -> None:
        """Ctrl-C at the prompt, until the next prompt is shown.

        `readline` waits for keys in `select`, and a signal that comes just before it sleeps is seen at the next key
        only (CPython, Modules/readline.c). So the key is pressed again each second, as a person would.
        """
        deadline = time.monotonic() + HUNG_SECONDS
        self.type("\x03")
        while "> " not in self.shown:
            if not self._read(1, deadline):
                self.type("\x03")
        self.until("> ")

    def close(self) -> int:
        """Ctrl-D on an empty line; the exit code."""
        try:
            self.type("\x04")
            return self.process.wait(timeout=HUNG_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._mine)


@pytest.fixture
def terminal(server: FakeServer) -> Iterator[Terminal]:
    made = Terminal(server)
    made.until(r"/help lists the commands.*?> ")
    yield made
    assert made.close() == 0


def contents(server: FakeServer) -> list[str]:
    """What was sent last, without roles."""
    return [message["content"] for message in server.seen[-1]]


def test_lines_are_edited_and_remembered(server: FakeServer, terminal: Terminal) -> None:
    terminal.type("wolrd\x1b[D\x1b[D\x1b[D\x7fr\x1b[C\r")
    terminal.until("<1 messages>.*?> ")
    assert len(contents(server)[0]) == 5
    assert "\x1b" not in contents(server)[0]
    terminal.type("\x1b[A\r")
    terminal.until("<3 messages>.*?> ")
    assert contents(server)[2] == contents(server)[0], "the arrow up brings the line back"


def test_messages_of_several_lines(server: FakeServer, terminal: Terminal) -> None:
    terminal.type("one \\\rtwo\r")
    terminal.until("<1 messages>.*?> ")
    assert contents(server) == ["one \ntwo"]
    terminal.type('"""three\rfour\\\r\rfive"""\r')
    terminal.until("<3 messages>.*?> ")
    assert contents(server)[-1] == "three\nfour\\\n\nfive"


def test_ctrl_c_keeps_the_question_and_what_came_of_the_answer(server: FakeServer, terminal: Terminal) -> None:
    terminal.type("slow\r")
    terminal.until(LONG)
    terminal.type("\x03")
    terminal.until("interrupted.*?> ")
    terminal.type("go on\r")
    terminal.until("<3 messages>.*?> ")
    assert contents(server) == ["slow", LONG, "go on"]


def test_ctrl_c_clears_a_half_typed_line_and_does_not_leave(server: FakeServer, terminal: Terminal) -> None:
    terminal.type("half a line")
    terminal.until("half a line")
    terminal.interrupt()
    terminal.interrupt()
    terminal.type("whole\r")
    terminal.until("<1 messages>.*?> ")
    assert contents(server) == ["whole"]


def test_an_error_is_shown_and_not_remembered(server: FakeServer, terminal: Terminal) -> None:
    terminal.type("break\r")
    terminal.until("the server says 400: no such thing.*?> ")
    terminal.type("again\r")
    terminal.until("<1 messages>.*?> ")
    assert contents(server) == ["again"]


def test_the_commands(server: FakeServer, terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("/stats\r")
    terminal.until("no answer yet.*?> ")
    terminal.type("/set system Be brief.\r")
    terminal.until("> ")
    terminal.type("/set top-k 7\r")
    terminal.until("> ")
    terminal.type("/set top_k many\r")
    terminal.until("top_k: 'many' is not a whole number.*?> ")
    terminal.type("/set temperature -9\r")
    terminal.until("temperature must be a number between 0.*?> ")
    terminal.type("/set\r")
    terminal.until('system "Be brief.".*top_k 7.*?> ')
    terminal.type("hello\r")
    terminal.until("<2 messages>.*?> ")
    assert contents(server) == ["Be brief.", "hello"]
    terminal.type("/stats\r")
    terminal.until(r"7 tokens \(.* per second\); first text after .*?> ")
    terminal.type("/regen\r")
    terminal.until("<2 messages>.*?> ")
    file = tmp_path / "saved.json"
    terminal.type(f"/save {file}\r")
    terminal.until("2 messages written.*?> ")
    saved = json.loads(file.read_text())
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    terminal.type("/save /no/such/directory/x\r")
    terminal.until("No such file or directory.*?> ")
    terminal.type("/clear\r")
    terminal.until("forgotten.*?> ")
    terminal.type("/clera\r")
    terminal.until("There is no /clera; there are /help.*?> ")
    terminal.type("/help\r")
    terminal.until("/regen .*Ctrl-C ends an answer.*?> ")
    terminal.type("new\r")
    terminal.until("<2 messages>.*?> ")
    assert contents(server) == ["Be brief.", "new"]


def test_a_pipe_that_is_interrupted_ends(server: FakeServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flover", "chat", "--url", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"slow\n")
    process.stdin.flush()
    assert process.stdout.read(len(LONG)).decode() == LONG
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=HUNG_SECONDS)
    assert (process.returncode, err) == (130, b"")
