"""Many requests at once take turns in the event loop."""

from __future__ import annotations

import asyncio

from flover.config import EngineConfig, ServerConfig
from flover.server.app_state import AppState

MANY = 50


def test_others_come_in_between_requests_that_come_at_once() -> None:
    async def run() -> list[int]:
        state = AppState(EngineConfig(), ServerConfig())
        rounds, seen = 0, list[int]()

        async def request() -> None:
            await state.next_round()
            seen.append(rounds)

        tasks = [asyncio.create_task(request()) for _ in range(MANY)]
        while not all(task.done() for task in tasks):
            rounds += 1
            await asyncio.sleep(0)
        state.close()
        return seen

    seen = asyncio.run(run())
    assert len(set(seen)) == len(seen) == MANY, "two requests worked in one round of the loop"
