"""The ASGI application: routes, the errors they may end in, and what stands before them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from flover.config import ServerConfig
from flover.server.door import Door
from flover.server.errors import add_error_handlers
from flover.server.http_body import BodyLimit
from flover.server.http_hosts import Hosts
from flover.server.http_keys import ApiKey
from flover.server.http_paths import Aliases
from flover.server.liveness import ROUTES, LoadingGate
from flover.server.middleware import Head, RequestId
from flover.server.routes import router


def create_app(door: Door) -> ASGIApp:
    """All that answers HTTP. The order of an exchange: request id, CORS, path, HEAD, host, key, body limits, whether
    the model is loaded, route.

    These stand around FastAPI, not in it: its own outermost layer answers to bugs, and that answer needs an id too.
    """
    return RequestId(guard(LoadingGate(create_api(door), door), door.config))


def guard(app: ASGIApp, config: ServerConfig) -> ASGIApp:
    """What keeps strangers and bodies that cost too much from `app`."""
    app = BodyLimit(app, config.limits)
    if config.api_key:
        app = ApiKey(app, config.api_key, share_prefixes=config.share_prefixes)
    app = Aliases(Head(Hosts(app, config)))
    if not config.allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.allowed_origins,
        allow_methods=("*",),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=("X-Request-Id", "Retry-After"),
    )


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
    api.router.routes.extend(ROUTES)
    add_error_handlers(api)
    return api
