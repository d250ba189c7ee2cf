"""Runs `flover top`: follows the live feed of a server and draws it in the terminal."""

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
from flover.cli.top_view import TopScreen, TopView
from flover.errors import ConfigError, EngineError

REDRAW_SECONDS = 0.1
RETRY_SECONDS = 1.0


def print_once(url: str, api_key: str | None, seconds: float) -> None:
    """Follow for `seconds`, then print one screen as text. Raises `ConfigError`, `EngineError`."""
    view = TopView(server_address(url))
    asyncio.run(_watch_for(seconds, view, api_key))
    Console(highlight=False).print(TopScreen(view, time.monotonic()))


def show(url: str, api_key: str | None) -> None:
    """Draw until q or a signal. Raises `ConfigError` if the output is not a terminal, `EngineError`."""
    view, console = TopView(server_address(url)), Console(highlight=False)
    if not console.is_terminal:
        raise ConfigError("the output is not a terminal: --once prints one screen as text")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_show(view, api_key, console))


async def _watch_for(seconds: float, view: TopView, api_key: str | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _feed(view, api_key)


async def _feed(view: TopView, api_key: str | None) -> None:
    """Follow the server, reconnecting when needed. Raises `EngineError` if the first connection fails."""
    while True:
        try:
            async for event in follow(view.address, api_key):
                view.take(event, time.monotonic())
            view.state = "the stream ended, trying again"
        except EngineError as error:
            if view.facts is None:
                raise
            view.state = f"{error}, trying again"
        await asyncio.sleep(RETRY_SECONDS)


async def _show(view: TopView, api_key: str | None, console: Console) -> None:
    """Draw until q is pressed or a signal arrives, then restore the terminal."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not asyncio's handling of Ctrl-C, a cancellation: Python 3.11's wait_for can lose one at its timeout.
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    feeding = asyncio.create_task(_feed(view, api_key))
    feeding.add_done_callback(lambda _: ended.set())
    try:
        with _keys(ended.set), Live(console=console, screen=True, auto_refresh=False) as live:
            while not ended.is_set():
                live.update(TopScreen(view, time.monotonic()), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), REDRAW_SECONDS)
    finally:
        if not feeding.done():
            feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


@contextlib.contextmanager
def _keys(leave: Callable[[], None]) -> Iterator[None]:
    """Call `leave` when q is pressed. Sets the terminal to unbuffered input without echo, and restores it."""
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
