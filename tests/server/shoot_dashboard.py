"""The picture of the dashboard in the documentation: `python tests/server/shoot_dashboard.py docs/dashboard.png`.

The bundled model, and requests that arrive as chance has it; the picture is taken while they run.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import aiohttp
from browser import Browser

from flover.bench.server import ServerProcess
from flover.cli.stories import make_stories

FLAGS = ("--max-num-seqs", "16", "--max-num-batched-tokens", "36", "--seed", "1")
NUM_REQUESTS = 60
RATE = 16.0
READY = "timeline.columns.length > 250 && timeline.stats.generating >= 9"
STORIES = 5
"""Openings in one prompt: several chunks under the budget of `FLAGS`."""
SIZE = {"width": 1280, "height": 930}


async def shoot(url: str, scheme: str, **size: int) -> bytes:
    """The page when the rows are well filled."""
    chance = random.Random(4)
    async with Browser(**size) as browser, aiohttp.ClientSession() as session:
        await browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await browser.open(f"{url}/dashboard")
        await browser.until("document.getElementById('state')?.dataset.state === 'live'")

        async def send(at: float, prompt: str, length: int) -> None:
            await asyncio.sleep(at)
            body = {"prompt": prompt, "max_tokens": length, "ignore_eos": True, "temperature": 0.8}
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                await answer.read()

        at, sends = 0.0, []
        stories = [story.text for story in make_stories(4, NUM_REQUESTS * STORIES)]
        for i in range(NUM_REQUESTS):
            at += chance.expovariate(RATE)
            prompt = " ".join(stories[STORIES * i : STORIES * (i + 1)])
            sends.append(asyncio.create_task(send(at, prompt, chance.randint(20, 160))))
        await browser.until(READY)
        picture = await browser.screenshot()
        assert browser.problems == []
        for task in sends:
            task.cancel()
        await asyncio.gather(*sends, return_exceptions=True)
    return picture


def main() -> None:
    with ServerProcess(FLAGS) as server:
        scheme = sys.argv[2] if len(sys.argv) > 2 else "light"
        size = SIZE | dict(zip(SIZE, map(int, sys.argv[3:]), strict=False))
        Path(sys.argv[1]).write_bytes(asyncio.run(shoot(server.url, scheme, **size)))


if __name__ == "__main__":
    main()
