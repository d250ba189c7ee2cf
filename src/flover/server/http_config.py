"""The configuration of the HTTP protocol: uvicorn's settings and Flover's limits."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from flover.config import Limits
from flover.server.http_connections import Connections


class HttpConfig(uvicorn.Config):
    """uvicorn's settings, with the limits and the open connections of the server."""

    def __init__(
        self, app: ASGIApp, limits: Limits, connections: Connections, http: type[asyncio.Protocol], **settings: Any
    ) -> None:
        super().__init__(
            app,
            http=http,
            ws="none",
            lifespan="off",
            log_config=None,
            server_header=False,
            timeout_keep_alive=limits.timeout_keep_alive,  # type: ignore[arg-type]  # seconds for call_later
            **settings,
        )
        self.limits = limits
        self.connections = connections
