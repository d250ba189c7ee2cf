"""The ASGI application: routes, the errors they may end in, and what stands before them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.types import ASGIApp

from flover.config import ServerConfig
from flover.server.door import Door
from flover.server.errors import add_error_handlers
from flover.server.middleware import ApiKey, BodyLimit, RequestId
from flover.server.request_log import RequestLog
from flover.server.routes import router


def create_app(door: Door) -> ASGIApp:
    """All that answers HTTP. The order of an exchange: log, request id, key, body limit, route.

    These stand around FastAPI, not in it: its own outermost layer answers to bugs, and that answer needs an id too.
    """
    app = RequestId(guard(create_api(door), door.config))
    return RequestLog(app, door.metrics.answered, lines=door.config.log_requests)


def guard(app: ASGIApp, config: ServerConfig) -> ASGIApp:
    """What keeps strangers and too long bodies from `app`."""
    app = BodyLimit(app)
    return app if config.api_key is None else ApiKey(app, config.api_key)


def create_api(door: Door) -> FastAPI:
    """The routes and their errors, with nothing before them."""
    api = FastAPI(
        title="Flover",
        version=version("flover"),
        docs_url=None,  # these two pages load scripts from elsewhere; /openapi.json is there
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.door = door
    api.include_router(router)
    add_error_handlers(api)
    return api
