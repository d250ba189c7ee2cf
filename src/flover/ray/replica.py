"""One replica of Ray Serve: a server without HTTP, whose routes answer requests that come through a handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from ray import serve
from rich.console import Console
from starlette.types import Message, Scope

from flover.config import EngineConfig, ServerConfig
from flover.errors import EngineDeadError
from flover.ipc.spawn import engine_command
from flover.server.app import create_api
from flover.server.app_state import AppState
from flover.server.loading import load

logger = logging.getLogger("flover.ray")


class EngineReplica:
    """A server and its engine, which is restarted when it dies. Ray starts it, asks for its health, and replaces it."""

    async def __init__(self, config: EngineConfig, server: ServerConfig) -> None:  # type: ignore[misc]  # Ray awaits it
        self._state = AppState(config, server)
        self._api = create_api(self._state)
        command = engine_command(config.distributed_executor_backend)
        self._engines = await load(self._state, config, command, None, Console(stderr=True))

    def check_health(self) -> None:
        """Raises for an engine that will never answer again; Ray then starts another replica."""
        if (status := self._state.status) in ("dead", "stalled"):
            raise EngineDeadError(f"the engine is {status}")

    async def answer(
        self, scope: Scope, body: bytes, *, key: str, avoid: Sequence[str]
    ) -> AsyncIterator[str | Message]:
        """One HTTP exchange: first the id of this replica, then the ASGI messages of the answer. `key` and `avoid` are
        for the router. When the call is cancelled, the request is."""
        yield serve.get_replica_context().replica_id.unique_id
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return incoming.pop() if incoming else await asyncio.get_running_loop().create_future()

        working = asyncio.create_task(self._api(scope, receive, messages.put))
        working.add_done_callback(lambda task: messages.put_nowait(None))
        try:
            async for message in _joined(messages):
                yield message
        finally:
            working.cancel()
            (outcome,) = await asyncio.gather(working, return_exceptions=True)
            if isinstance(outcome, Exception):
                logger.error("a route failed", exc_info=outcome)


async def _joined(messages: asyncio.Queue[Message | None]) -> AsyncIterator[Message]:
    """Messages until None; parts of a body that wait together go together."""
    while (message := await messages.get()) is not None:
        while message.get("more_body") and not messages.empty():
            more = messages.get_nowait()
            if more is None:
                yield message
                return
            message = {**more, "body": message["body"] + more.get("body", b"")}
        yield message
