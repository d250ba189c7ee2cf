"""The picture of the dashboard in the documentation: `python tests/server/shoot_dashboard.py docs/dashboard.png`.

The bundled model, and clients that send one request after the other as chance has it.
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
NUM_CLIENTS = 13
PAUSE_SECONDS = 0.08
"""Mean pause of a client between its requests."""
NUM_ITERATIONS = 400
STORIES = 5
"""Openings in one prompt: several chunks under the budget of `FLAGS`."""
SIZE = {"width": 1280, "height": 995}


async def shoot(url: str, scheme: str, **size: int) -> bytes:
    """The page when the rows are well filled."""
    async with Browser(**size) as browser, aiohttp.ClientSession() as session:
        await browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await browser.open(f"{url}/dashboard")
        await browser.until("document.getElementById('state')?.dataset.state === 'live'")

        async def client(number: int) -> None:
            chance = random.Random(number)
            stories = [story.text for story in make_stories(number, 100)]
            while True:
                await asyncio.sleep(chance.expovariate(1 / PAUSE_SECONDS))
                prompt = " ".join(chance.sample(stories, STORIES))
                body = {"prompt": prompt, "max_tokens": chance.randint(20, 160), "ignore_eos": True}
                async with session.post(f"{url}/v1/completions", json=body) as answer:
                    await answer.read()

        clients = [asyncio.create_task(client(number)) for number in range(NUM_CLIENTS)]
        await browser.until(f"timeline.columns.length > {NUM_ITERATIONS} && timeline.stats.generating > 8")
        picture = await browser.screenshot()
        assert browser.problems == []
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return picture


def main() -> None:
    with ServerProcess(FLAGS) as server:
        scheme = sys.argv[2] if len(sys.argv) > 2 else "light"
        size = SIZE | dict(zip(SIZE, map(int, sys.argv[3:]), strict=False))
        Path(sys.argv[1]).write_bytes(asyncio.run(shoot(server.url, scheme, **size)))


if __name__ == "__main__":
    main()
