"""A lock whose waiting holders are served in turns of clients."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Held by one at a time. Clients that wait are served one after the other, the requests of each in order, so that
    one waits for one turn of each other client, however many those want. Belongs to one asyncio loop."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn of this client, and hold it."""
        if self._held:
            mine = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(client, deque()).append(mine)
            try:
                await mine
            except asyncio.CancelledError:
                if mine.done() and not mine.cancelled():
                    self._pass_on()  # it was given the turn meanwhile
                raise
        self._held = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the next that still waits."""
        while self._waiting:
            client, own = self._waiting.popitem(last=False)
            while own and own[0].done():
                own.popleft()
            if not own:
                continue
            chosen = own.popleft()
            if own:
                self._waiting[client] = own
            chosen.set_result(None)
            return
        self._held = False
