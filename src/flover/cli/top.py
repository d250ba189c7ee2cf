"""`flover top`: a running server's lanes, drawn in the terminal while it works."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live

from flover.cli.flags import number
from flover.cli.follow import follow, server_address
from flover.cli.lanes import Lanes, LiveLanes
from flover.config import read_environment
from flover.errors import ConfigError, EngineError

REDRAW_SECONDS = 0.1
RETRY_SECONDS = 1.0
DEFAULT_URL = "http://127.0.0.1:8000"


def add(commands: Any) -> argparse.ArgumentParser:
    """The command's part of the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "top",
        help="watch a running server: lanes of rows over iterations",
        description="Watch a running server: which sequence sits in which row, iteration by iteration, the fused "
        "width, the queue, pages and time. q ends it. /dashboard shows the same in a browser.",
    )
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help="the server (default: %(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="the server's key; also read from FLOVER_API_KEY")
    parser.add_argument("--once", action="store_true", help="print one picture as text and end, also into a pipe")
    parser.add_argument(
        "--seconds", type=number, default=1.0, metavar="X", help="with --once: watch for so long (default: %(default)g)"
    )
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Watch until told to stop."""
    if not 0 < args.seconds <= 3600:
        raise ConfigError(f"--seconds must be above 0 and at most 3600, got {args.seconds:g}")
    lanes = Lanes(server_address(args.url))
    api_key = args.api_key or read_environment().api_key
    console = Console(highlight=False)
    if args.once:
        asyncio.run(_watch_for(args.seconds, lanes, api_key))
        console.print(LiveLanes(lanes, time.monotonic()))
        return 0
    if not console.is_terminal:
        raise ConfigError("the output is no terminal: --once prints one picture as text")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(lanes, api_key, console))
    return 0


async def _watch_for(seconds: float, lanes: Lanes, api_key: str | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _feed(lanes, api_key)


async def _feed(lanes: Lanes, api_key: str | None) -> None:
    """Follow the server, again and again. Raises `EngineError` if even the first connection fails."""
    while True:
        try:
            async for event in follow(lanes.address, api_key):
                lanes.take(event, time.monotonic())
            lanes.state = "the stream ended, trying again"
        except EngineError as error:
            if lanes.facts is None:
                raise
            lanes.state = f"{error}, trying again"
        await asyncio.sleep(RETRY_SECONDS)


async def _show(lanes: Lanes, api_key: str | None, console: Console) -> None:
    """Draw until q is pressed or a signal comes; the terminal is then as it was."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    feeding = asyncio.create_task(_feed(lanes, api_key))
    feeding.add_done_callback(lambda _: ended.set())
    try:
        with _keys(ended.set), Live(console=console, screen=True, auto_refresh=False) as live:
            while not ended.is_set():
                live.update(LiveLanes(lanes, time.monotonic()), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), REDRAW_SECONDS)
    finally:
        if not feeding.done():
            feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


@contextlib.contextmanager
def _keys(leave: Callable[[], None]) -> Iterator[None]:
    """Call `leave` when q is pressed. Keys come one by one and unseen; afterwards the terminal is as it was."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def pressed() -> None:
        if os.read(stdin, 64) in (b"q", b"Q", b""):
            leave()

    tty.setcbreak(stdin)
    loop.add_reader(stdin, pressed)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
