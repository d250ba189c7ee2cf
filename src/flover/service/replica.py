"""The place of one engine behind a server: which engine is in it now, and what is known of those before."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

from flover.config import EngineConfig
from flover.engine.stats import EngineStats
from flover.ipc.restarts import Restarts
from flover.service.client import EngineClient

STALL_SECONDS = 60.0
"""An engine that says nothing for so long is not healthy; iterations are measured in milliseconds."""
LOADING_TIMES = 3.0
"""An engine that is started again may take so many times as long as its place's slowest start, before its silence
counts: between two lines of news a loading engine reads, quantizes and allocates."""


class Replica:
    """One place, numbered from 0. The supervisor fills it and empties it."""

    def __init__(self, number: int, restarts: Restarts) -> None:
        self.number = number
        self.restarts = restarts
        self.client: EngineClient | None = None
        self.restarting: asyncio.Task[None] | None = None
        self.past = EngineStats()
        """The counters of the engines before, as one."""
        self.num_begun = 0
        self.slowest_start = 0.0
        """Seconds from the start of a process to a loaded model."""

    @property
    def status(self) -> str:
        """ "ok", "stalled", "restarting", or "dead" for good. A loading engine is never stalled."""
        if self.client is None:
            return "dead" if self.restarting is None else "restarting"
        return "stalled" if self.client.last_news_age > STALL_SECONDS else "ok"

    @property
    def stats(self) -> EngineStats:
        """The newest snapshot; counters go on over restarts."""
        return self.past if self.client is None else self.past.plus(self.client.stats)

    def started(self, client: EngineClient, seconds: float) -> None:
        """A new engine is in it, `seconds` after its process was started."""
        self.client = client
        self.num_begun += 1
        self.slowest_start = max(self.slowest_start, seconds)

    def ended(self) -> EngineClient | None:
        """Its engine is gone: the client that it had, if it is the first to say so."""
        client, self.client = self.client, None
        if client is not None:
            self.past = self.past.plus(client.stats.past())
        return client

    def loading_silence(self, stall_timeout: float) -> float:
        """Seconds without news after which a loading engine is given up; 0: never. The first one may have to download
        its model, of which there are no news."""
        if self.num_begun == 0 or stall_timeout <= 0:
            return 0.0
        return stall_timeout + LOADING_TIMES * self.slowest_start

    def own_config(self, config: EngineConfig) -> EngineConfig:
        """For the next engine: a schedule that an engine has written is not written over by it."""
        if config.trace is None or self.num_begun == 0:
            return config
        path = Path(config.trace)
        return dataclasses.replace(config, trace=str(path.with_stem(f"{path.stem}.{self.num_begun}")))
