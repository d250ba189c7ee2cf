"""Paths that mean another one, and those that anyone may ask for."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

ALIASES = {
    "/readyz": "/health",
    "/healthz": "/health",
    "/ping": "/health",
    "/models": "/v1/models",
    "/completions": "/v1/completions",
    "/chat/completions": "/v1/chat/completions",
}
"""Paths that mean another one: those of other servers, and the API for clients whose base_url lacks /v1."""
LIVENESS_PATHS = frozenset(("/livez", "/health", *(path for path, to in ALIASES.items() if to == "/health")))
"""Answered without a key, for any Host, and when all connections are taken: they show nothing but the state."""


class Aliases:
    """Gives requests the path that theirs means."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            meant = ALIASES.get(path) or (f"/v1{path}" if path.startswith("/models/") else None)
            if meant is not None:
                scope = {**scope, "path": meant}
        await self._app(scope, receive, send)
