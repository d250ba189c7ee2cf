"""Path aliases, and the routes that are treated apart before routing."""

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
"""Path aliases: those of other servers, and the API for clients whose base_url lacks /v1."""
LIVENESS_PATHS = frozenset(("/livez", "/health", *(path for path, to in ALIASES.items() if to == "/health")))
"""Health routes: served without a key, for any Host, and when all connections are in use."""
UPLOAD_PATH = "/v1/files"
"""Where a body may be as long as a file."""


class Aliases:
    """Middleware that replaces path aliases."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            meant = ALIASES.get(path) or (f"/v1{path}" if path.startswith("/models/") else None)
            if meant is not None:
                scope = {**scope, "path": meant}
        await self._app(scope, receive, send)
