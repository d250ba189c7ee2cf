"""What `flover top` does: follows the feed of a server and draws its lanes in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from flover.cli.address import server_address
from flover.cli.follow import follow
from flover.cli.lanes import Lanes, LiveLanes
from flover.errors import ConfigError, EngineError

REDRAW_SECONDS = 0.1
RETRY_SECONDS = 1.0


def print_once(url: str, api_key: str | None, seconds: float) -> None:
    """Watch for a while, then print one picture as text. Raises `ConfigError`, `EngineError`."""
    lanes = Lanes(server_address(url))
    asyncio.run(_watch_for(seconds, lanes, api_key))
    Console(highlight=False).print(LiveLanes(lanes, time.monotonic()))


def show(url: str, api_key: str | None) -> None:
    """Draw until told to stop. Raises `ConfigError` where the output is no terminal, `EngineError`."""
    lanes, console = Lanes(server_address(url)), Console(highlight=False)
    if not console.is_terminal:
        raise ConfigError("the output is no terminal: --once prints one picture as text")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(lanes, api_key, console))


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
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not asyncio's own way of a Ctrl-C, a cancellation: Python 3.11's wait_for loses one that meets its timeout.
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
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
