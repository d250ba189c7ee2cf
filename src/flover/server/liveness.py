"""The routes `/livez` and `/`, and 503 responses while the model loads."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flover.server.app_state import AppState
from flover.server.dashboard import chat
from flover.server.errors import Unavailable, error_response
from flover.server.http_paths import LIVENESS_PATHS
from flover.server.responses import json_response

BEFORE_LOADING = LIVENESS_PATHS | {"/metrics", "/dashboard", "/openapi.json"}


class LoadingGate:
    """Middleware that responds 503 to all but health routes while the model loads, also to `/v1/models`: clients treat
    its 200 as readiness."""

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._state.supervisor is None and scope["path"] not in BEFORE_LOADING:
            message = "the server is shutting down" if self._state.draining else "the model is being loaded"
            await error_response(Unavailable(message), path=scope["path"])(scope, receive, send)
            return
        await self._app(scope, receive, send)


async def livez(request: Request) -> Response:
    """200 as long as the event loop runs, whatever the engine does."""
    return json_response({"status": "ok"})


async def index(request: Request) -> Response:
    """Links to documentation, models and dashboard."""
    return json_response(
        {
            "name": "Flover",
            "api": "/v1",
            "models": "/v1/models",
            "chat_completions": "/v1/chat/completions",
            "completions": "/v1/completions",
            "responses": "/v1/responses",
            "ollama": "/api/chat",
            "messages": "/v1/messages",
            "batches": "/v1/batches",
            "health": "/health",
            "dashboard": "/dashboard",
            "openapi": "/openapi.json",
        }
    )


async def root(request: Request) -> Response:
    """The chat page for browsers, links for other clients."""
    if "text/html" in request.headers.get("Accept", ""):
        return chat()
    response = await index(request)
    response.headers["Vary"] = "Accept"
    return response


ROUTES = [Route("/livez", livez), Route("/", root), Route("/v1", index)]
