"""The ASGI application: routes, error handlers and middleware."""

from __future__ import annotations

from functools import partial

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from flover.config import ServerConfig
from flover.server import liveness
from flover.server.app_state import AppState
from flover.server.batches.ask import ask
from flover.server.batches.batches import Batches
from flover.server.batches.run import BatchLimits
from flover.server.batches.store import Store
from flover.server.batches.upload import UploadLimit
from flover.server.errors import error_handlers
from flover.server.http_body import BodyLimit
from flover.server.http_hosts import Hosts
from flover.server.http_keys import ApiKey
from flover.server.http_paths import Aliases
from flover.server.liveness import LoadingGate
from flover.server.middleware import HeadRequests, RequestId
from flover.server.rate_headers import NAMES, RateHeaders
from flover.server.request_log import RequestLog
from flover.server.routes import ROUTES


def create_app(state: AppState) -> ASGIApp:
    """All that answers HTTP. The order of an exchange: log, request id, CORS, path, HEAD, host, key, body limits,
    limits in a minute, whether the model is loaded, route.

    These stand around the routes' application, not in it: its outermost layer answers to bugs, and that answer needs
    an id too.
    """
    routes = RateHeaders(LoadingGate(create_api(state), state), state.accounts)
    app = RequestId(add_access_checks(routes, state.config))
    return RequestLog(app, state.metrics.answered, on_generated=state.record, lines=state.config.log_requests)


def add_access_checks(app: ASGIApp, config: ServerConfig) -> ASGIApp:
    """`app` behind checks of host, key and size of the body."""
    app = UploadLimit(app, BodyLimit(app, config.limits), config.limits.max_file_bytes)
    if config.api_key:
        app = ApiKey(app, config.api_key)
    app = Aliases(HeadRequests(Hosts(app, config)))
    if not config.allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=config.allowed_origins,
        allow_methods=("*",),
        allow_headers=("*",),
        allow_private_network=True,
        expose_headers=("X-Request-Id", "Retry-After", *NAMES),
    )


def create_api(state: AppState) -> Starlette:
    """The routes and their errors, with nothing before them."""
    api = Starlette(routes=[*ROUTES, *liveness.ROUTES], exception_handlers=error_handlers())
    api.router.redirect_slashes = False
    api.state.server = state
    return api


def run_batches(state: AppState, store: Store) -> Batches:
    """The batches of a server whose model is loaded; unfinished ones go on. Their requests take the way of a client's,
    behind the checks of access, and are computed as backfill."""
    backfill, config = state.for_backfill(), state.config
    app = RequestLog(
        RequestId(create_api(backfill)), lambda status: None, on_generated=state.record, lines=config.log_requests
    )
    limits = BatchLimits(
        max_requests=config.limits.max_batch_requests,
        max_line_bytes=config.limits.max_body_bytes,
        concurrency=state.max_num_seqs,
    )
    batches = Batches(store, limits, partial(ask, app))
    batches.resume()
    return batches
