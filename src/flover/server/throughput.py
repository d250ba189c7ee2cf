"""Logs throughput every ten seconds while there is work, in vLLM's format."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from flover.engine.stats import EngineStats
from flover.service.supervisor import Supervisor

SECONDS = 10.0

logger = logging.getLogger(__name__)


def throughput_line(before: EngineStats, now: EngineStats, seconds: float) -> str | None:
    """The throughput in the `seconds` between two snapshots; None if there was none."""
    prompt = now.prompt_tokens - before.prompt_tokens
    generated = now.generation_tokens - before.generation_tokens
    if not (prompt or generated or now.running or now.waiting):
        return None
    queried = now.queried_tokens - before.queried_tokens
    hits = now.cached_tokens - before.cached_tokens
    return (
        f"Avg prompt throughput: {prompt / seconds:.1f} tokens/s, "
        f"Avg generation throughput: {generated / seconds:.1f} tokens/s, "
        f"Running: {now.running} reqs, Waiting: {now.waiting} reqs, "
        f"KV cache usage: {100 * now.pages_used / max(1, now.pages_total):.1f}%, "
        f"Prefix cache hit rate: {100 * hits / max(1, queried):.1f}%"
    )


async def log_throughput(
    supervisor: Supervisor,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Write the lines until cancelled."""
    before, at = supervisor.stats, clock()
    while True:
        await sleep(SECONDS)
        now, when = supervisor.stats, clock()
        line = throughput_line(before, now, max(when - at, 1e-9))
        if line is not None:
            logger.info("%s", line)
        before, at = now, when
