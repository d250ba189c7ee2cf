"""`flover top`: what it shows of a feed, its output in a pipe, and a terminal that is restored."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from fake_http import FakeHandler, FakeServer, serving
from rich.console import Console
from support.live_script import SCRIPT, event, facts_event, iteration

from flover.cli.address import server_address
from flover.cli.follow import LiveEvent, read_event
from flover.cli.main import main
from flover.cli.top_view import Shares, TopScreen, TopView, cell, colour
from flover.errors import ConfigError, EngineError
from flover.observe.timeline import DEAD

KEY = "sk-secret"


def read(content: bytes) -> LiveEvent:
    found = read_event(content)
    assert found is not None
    return found


def picture(view: TopView, *, now: float = 2.0, width: int = 100, height: int = 40, terminal: bool = False) -> str:
    out = io.StringIO()
    system = "truecolor" if terminal else None
    console = Console(file=out, width=width, height=height, color_system=system, force_terminal=terminal)
    console.print(TopScreen(view, now))
    return out.getvalue()


def seen(*events: bytes) -> TopView:
    """TopView after the events of a stream, a second after each other."""
    view = TopView("http://toy")
    for second, one in enumerate(events):
        view.take(read(one), float(second))
    return view


def test_letters_show_who_sat_where_and_did_what() -> None:
    lines = picture(seen(facts_event(), event(SCRIPT))).splitlines()
    rows = [line.strip() for line in lines if re.match(r"\s+\d ", line)]
    assert rows == ["0 aAAA^CCC", "1 bbBBB bB", "2   cC"]
    assert any("A generating" in line and "ms by share of tokens" in line for line in lines)
    assert [line.split()[0] for line in lines if re.match(r"\s+(width|queue|gen|pre|pages)\b", line)] == [
        *("width", "queue", "gen.", "pre.", "pages")
    ]
    assert any(re.fullmatch(r"   width  ▃▅█▅▃▃▅ ≤ 3 *", line) for line in lines), "generating rows: 0 1 2 3 2 1 1 2"


def test_dead_rows_idle_rows_and_a_window_that_begins_later() -> None:
    later = iteration(0, [7, DEAD, 8], first=3, generating=[3])
    assert [cell(later, row) for row in (2, 3, 4, 5, 6)] == [(" ", -1), ("█", 7), ("·", -1), ("─", 8), (" ", -1)]


def test_the_time_of_a_mixed_iteration_is_shared_out_by_tokens() -> None:
    mixed = iteration(0, [0, 1, DEAD], generating=[0], chunks=[(1, 6)], milliseconds=16.0)
    assert Shares.of(mixed) == Shares(preprocessing=12.0, generation=2.0, dead=2.0)


def test_the_gauges() -> None:
    stats = {"generation_tokens": 300, "iterations": 4, "iteration_rows": 6, "preemptions": 2, "row_moves": 1}
    finished = {"stop": 3, "length": 20, "abort": 1, "error": 0}
    view = seen(facts_event(), event(SCRIPT[:2]), event(SCRIPT[2:4], waiting=5, finished=finished, **stats))
    shown = picture(view)
    assert "300 tok/s   batch size 3 of 8 rows, mean 1.5   queue 5   iteration 8.0 ms" in shown
    assert (
        "pages 30 used, 5 cached, 65 free   preemptions 2   row moves 1\nfinished 24 (length 20, stop 3, abort 1)"
        in shown
    )
    assert view.rate(now=5.0) == 0.0, "nothing has come for a while"


def test_colours_tell_neighbours_apart_and_no_colours_no_escapes() -> None:
    assert len({colour(number) for number in range(64)}) == 64
    view = seen(facts_event(), event(SCRIPT))
    assert "\x1b[38;2;" in picture(view, terminal=True)
    assert "\x1b" not in picture(view)


def test_only_what_there_is_room_for_is_drawn() -> None:
    many = [iteration(step, list(range(30)), generating=list(range(30))) for step in range(300)]
    for terminal in (False, True):
        lines = picture(seen(facts_event(), event(many)), width=60, height=24, terminal=terminal).splitlines()
        assert len(lines) <= 24
        assert all(len(re.sub(r"\x1b\[[\d;]*m", "", line)) <= 60 for line in lines)
        assert any("more rows" in line for line in lines)


def test_another_engine_begins_another_picture() -> None:
    view = seen(facts_event(), event(SCRIPT), event([iteration(0, [0], generating=[0])]))
    assert len(view.iterations) == 1


def test_a_server_that_is_gone_has_no_reading() -> None:
    view = seen(facts_event(), event(SCRIPT, generation_tokens=300))
    assert "tok/s" in picture(view)
    view.state = "cannot connect, trying again"
    shown = picture(view)
    assert "no reading: the server does not answer" in shown
    assert not {"tok/s", "queue 0", "pages 30 used"} & set(shown.split("   "))


def test_nobody_generating_shows_how_to_begin() -> None:
    shown = picture(seen(facts_event(), event([])))
    assert "No request is running" in shown
    assert "curl http://toy/v1/completions" in shown.replace("\n", "")


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a", "", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="URL must begin with http"):
        server_address(url)


def test_addresses_of_the_api_and_the_page_are_the_server_s() -> None:
    assert server_address("http://a:1/v1/") == server_address("http://a:1/dashboard") == "http://a:1"


@pytest.mark.parametrize("line", [b"data: {", b"data: 5\n", b'data: {"iterations": [{"step": "x"}]}'])
def test_what_is_no_feed_is_said(line: bytes) -> None:
    with pytest.raises(EngineError, match="not Flover's live feed"):
        read_event(line)


def test_lines_that_say_nothing() -> None:
    assert [read_event(line) for line in (b"\n", b": ping\n", b"data: [DONE]\n")] == [None] * 3


# With a server


class Feed(FakeHandler):
    """`/live`: the whole script, and then nothing more until the server ends."""

    def get(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer(401, b'{"error": {"message": "the API key is missing or wrong"}}')
        elif self.path != "/live":
            self.answer(404, b"nothing")
        else:
            self.answer(200, facts_event() + event(SCRIPT[:4]) + event(SCRIPT[4:]), more=True)
            self.server.ended.wait()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(Feed) as made:
        yield made


def test_once_prints_one_picture_into_a_pipe(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOVER_API_KEY", KEY)
    assert main(["top", server.url, "--once", "--seconds", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "0 aAAA^CCC" in out
    assert "toy" in out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--once", "--api-key", "wrong"], 1, "the server says 401: the API key is missing or wrong"),
        (["--once", "--seconds", "0"], 2, "--seconds must be above 0 and at most 3600, got 0"),
        (["--once", "--seconds", "inf"], 2, "--seconds must be above 0 and at most 3600, got inf"),
        (["--api-key", KEY], 2, "the output is not a terminal: --once prints one screen as text"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: FakeServer, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, message: str
) -> None:
    assert main(["top", server.url, *flags]) == code
    assert capsys.readouterr().err == f"flover top: error: {message}\n"


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "http://127.0.0.1:1", "--once"]) == 1
    assert "cannot connect to http://127.0.0.1:1: connection refused" in capsys.readouterr().err


class Terminal:
    """`flover top` in a terminal of its own."""

    def __init__(self, url: str) -> None:
        self._mine, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.shown = ""
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        command = [sys.executable, "-m", "flover", "top", url, "--api-key", KEY]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )

    def until(self, text: str, seconds: float = 20.0) -> None:
        """Read what is drawn until `text` is in it."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._mine], [], [], 0.1)[0]:
                self.shown += os.read(self._mine, 65536).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        os.write(self._mine, keys)

    def close(self) -> int:
        """Wait for the end, reading on; the exit code."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._mine], [], [], 0.05)[0]:
                self.shown += os.read(self._mine, 65536).decode(errors="replace")
        self.process.kill()
        code = self.process.wait()
        while select.select([self._mine], [], [], 0.05)[0]:
            self.shown += os.read(self._mine, 65536).decode(errors="replace")
        self.after = termios.tcgetattr(self._theirs)
        os.close(self._mine)
        os.close(self._theirs)
        return code


ENDINGS: dict[str, Callable[[Terminal], None]] = {
    "q": lambda terminal: terminal.press(b"q"),
    "Ctrl-C": lambda terminal: terminal.process.send_signal(signal.SIGINT),
    "SIGTERM": lambda terminal: terminal.process.terminate(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_terminal_is_left_as_it_was(server: FakeServer, ending: str) -> None:
    terminal = Terminal(server.url)
    try:
        terminal.until("by share of")
        assert "\x1b[?1049h" in terminal.shown, "drawn on a screen of its own"
        assert termios.tcgetattr(terminal._theirs)[3] != terminal.before[3], "keys come one by one"
        ENDINGS[ending](terminal)
    finally:
        code = terminal.close()
    assert code == 0
    assert terminal.after == terminal.before
    assert terminal.shown.rindex("\x1b[?1049l") > terminal.shown.rindex("\x1b[?1049h")
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l"), "the cursor is back"
    assert "Traceback" not in terminal.shown


def test_a_server_that_goes_away_is_waited_for(server: FakeServer) -> None:
    terminal = Terminal(server.url)
    try:
        terminal.until("by share of")
        server.ended.set()
        terminal.until("trying again")
        terminal.press(b"q")
    finally:
        assert terminal.close() == 0
