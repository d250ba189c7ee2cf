"""The ASGI application: routes, the errors they may end in, and what stands before them."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from flover.server.door import Door
from flover.server.errors import add_error_handlers
from flover.server.middleware import ApiKey, BodyLimit, RequestId
from flover.server.routes import router


def create_app(door: Door) -> FastAPI:
    """The application in front of a door. The order of an exchange: request id, key, body limit, route."""
    app = FastAPI(
        title="Flover",
        version=version("flover"),
        docs_url=None,  # these two pages load scripts from elsewhere; /openapi.json is there
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.door = door
    app.include_router(router)
    add_error_handlers(app)
    app.add_middleware(BodyLimit)
    if door.config.api_key is not None:
        app.add_middleware(ApiKey, key=door.config.api_key)
    app.add_middleware(RequestId)  # the last one added is the first one passed
    return app
