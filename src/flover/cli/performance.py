"""The demo: starts a server, runs the same requests fused and one after another, and compares.

Both runs have the same prompts, seeds and lengths and ignore the end of sequence, so they do the same work. Each has
its own cache salt, so that neither finds the other's prompts in the prefix cache.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from rich.console import Console

from flover.bench.client import CHAT, COMPLETIONS, Client, Send, mean_width
from flover.bench.fusion import Fusion, FusionRun, measured
from flover.bench.metrics import RequestRecord
from flover.bench.report import fusion_table
from flover.bench.server import ServerProcess
from flover.bench.workload import Lengths, random_arrivals
from flover.cli.live import REDRAWS_PER_SECOND, Board, Display, Lane
from flover.cli.stories import make_stories

METRICS_SECONDS = 0.25
OUTPUT_LENS = Lengths(32, 192)
NUM_SHOWN = 2
MAX_SHOWN_CHARS = 400


def perform(flags: list[str], num_requests: int, rate: float, seed: int) -> None:
    """Run the demo on a server with these flags. Raises `EngineError` if it fails."""
    console = Console(highlight=False)
    console.print("Starting the server …")
    started = time.perf_counter()
    with ServerProcess(flags) as server:
        seconds = time.perf_counter() - started
        console.print(f"Ready on {server.url} after {seconds:.1f} s (process {server.pid}).\n")
        result = asyncio.run(_Demo(server.url, console, num_requests, rate, seed).run())
    console.print(fusion_table("The same requests, fused and one after another", result))
    same = sum(a.text == b.text for a, b in zip(result.fused.records, result.serial.records, strict=True))
    console.print(f"{same} of {num_requests} texts are the same in both runs.")
    console.print("The server has stopped; nothing is left running.")


def make_sends(model: str, num_requests: int, rate: float, seed: int, salt: str) -> list[Send]:
    """Alternating chats and completions with Poisson arrivals and lengths from the seed, under one cache salt."""
    rng = random.Random(seed)
    sends = []
    arrivals = random_arrivals(rng, num_requests, rate)
    for at, story in zip(arrivals, make_stories(seed, num_requests), strict=True):
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": OUTPUT_LENS.draw(rng),
            "seed": rng.randrange(2**31),
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": salt,
        }
        if story.chat:
            sends.append(Send(at, CHAT, {**body, "messages": [{"role": "user", "content": story.text}]}))
        else:
            sends.append(Send(at, COMPLETIONS, {**body, "prompt": story.text}))
    return sends


class _Demo:
    """Both runs on one server."""

    def __init__(self, url: str, console: Console, num_requests: int, rate: float, seed: int) -> None:
        self._url = url
        self._console = console
        self._num_requests = num_requests
        self._rate = rate
        self._seed = seed

    async def run(self) -> Fusion:
        """Warm up, run fused, show texts, run serially."""
        async with Client(self._url) as client:
            model = (await client.model())["id"]
            await measured(client, make_sends(model, 2, self._rate, self._seed + 1, "warm-up"), at_once=True)
            sends = make_sends(model, self._num_requests, self._rate, self._seed, "fused")
            fused = await self._show(client, sends, "Fused: requests join and leave at any time", at_once=True)
            self._print_texts(fused)
            sends = make_sends(model, self._num_requests, self._rate, self._seed, "serial")
            serial = await self._show(client, sends, "The same requests one after another", at_once=False)
            self._console.print()
        return Fusion(fused, serial)

    async def _show(self, client: Client, sends: list[Send], title: str, *, at_once: bool) -> FusionRun:
        """One run with its live display."""
        lanes = [Lane("chat" if send.path == CHAT else "text", send.body["max_tokens"]) for send in sends]
        board = Board(title, lanes)
        start = time.perf_counter()

        def watch(index: int, record: RequestRecord) -> None:
            lane = lanes[index]
            lane.done = record.output_tokens > 0
            lane.num_tokens = record.output_tokens if lane.done else min(len(record.ticks), lane.num_wanted)

        def look() -> None:
            board.seconds = time.perf_counter() - start
            for index, send in enumerate(sends):
                lanes[index].sent = board.seconds >= send.at if at_once else index == 0 or lanes[index - 1].done

        with Display(board, self._console) as refresh:
            reading = asyncio.create_task(_read_widths(client, board))
            running = asyncio.create_task(measured(client, sends, at_once=at_once, watch=watch))
            while not running.done():
                look()
                refresh()
                await asyncio.wait([running], timeout=1 / REDRAWS_PER_SECOND)
            reading.cancel()
            look()
        return running.result()

    def _print_texts(self, run: FusionRun) -> None:
        self._console.print()
        for story, record in zip(make_stories(self._seed, self._num_requests)[:NUM_SHOWN], run.records, strict=False):
            text = " ".join(record.text.split())
            if len(text) > MAX_SHOWN_CHARS:
                text = text[:MAX_SHOWN_CHARS].rsplit(" ", 1)[0] + " …"
            self._console.print(f"{'chat' if story.chat else 'text'}: {story.text}", style="yellow", markup=False)
            self._console.print(text + "\n", markup=False)


async def _read_widths(client: Client, board: Board) -> None:
    """Sample the mean batch size four times a second."""
    before = await client.metrics()
    while True:
        await asyncio.sleep(METRICS_SECONDS)
        after = await client.metrics()
        board.widths.append(mean_width(before, after) or 0.0)
        before = after
