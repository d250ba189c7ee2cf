"""Flover under Ray Serve: `serve run flover.ray.serve:app model=DIR max_replicas=4`.

Two deployments. The light one, `Ingress`, takes HTTP requests as our own server does and finds out how their prompts
begin; it passes them to the other one, `EngineReplica`, whose number follows the requests that are open. Which replica
gets a request is `service/router.py`'s decision. What had sent nothing yet when its replica went is sent to another.
"""

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Self

import msgspec
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, model_validator
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from flover.config import EngineConfig, ServerConfig, read_environment
from flover.errors import ConfigError
from flover.ray.engine import THREADS_PER_RANK, on_any_node
from flover.ray.replica import EngineReplica
from flover.ray.router import TEXT_BLOCK, PrefixAffinityRouter
from flover.server.app import add_access_checks
from flover.server.errors import Unavailable, envelope, error_response
from flover.server.http_keys import KEY_SALT
from flover.server.sse import DONE, event
from flover.service.router import MOST_APART, MOST_BLOCKS

TRIES = 3
"""Replicas that a request is sent to, as long as none of them has begun to answer."""
HEALTH_SECONDS = 2.0
"""So often Ray asks replicas for their health."""
KEY_CHARACTERS = TEXT_BLOCK * MOST_BLOCKS
_SCOPE = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "headers",
    "client",
    KEY_SALT,
)

logger = logging.getLogger("flover.ray")

Names = Annotated[tuple[str, ...], BeforeValidator(lambda text: text.replace(",", " ").split())]
"""What is written as names separated by commas or blanks."""


class Arguments(BaseModel):
    """What `serve run` takes, as NAME=VALUE: these, and every setting of an engine under the name of its flag
    (`model`, `tensor_parallel_size`, `num_threads` ...). A key for clients is taken from FLOVER_API_KEY, where `serve
    run` runs."""

    model_config = ConfigDict(extra="allow")

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float | None = Field(None, gt=0)
    """Open requests for each replica that Ray aims at; half of --max-num-seqs by default."""
    upscale_delay_s: float = Field(30.0, ge=0)
    downscale_delay_s: float = Field(600.0, ge=0)
    """Seconds that there have to be too many or too few open requests before replicas come or go."""
    most_apart: int = Field(MOST_APART, ge=0)
    """Open requests that a replica may have more than the least busy one and still get those it knows a prompt of."""
    served_model_name: str | None = None
    allowed_hosts: Names = ()
    """Host names to answer to without a key, beside those of this machine, separated by commas; * is any."""
    allowed_origins: Names = ()
    """Origins whose pages in a browser may use the API, separated by commas; * is any."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas ({self.min_replicas}) is more than max_replicas ({self.max_replicas})")
        self.engine()
        return self

    def engine(self) -> EngineConfig:
        """The settings of each engine; one thread where no number is given, as many as CPUs are asked for. Raises
        `ConfigError` for a setting that there is not, `ValueError` for a bad value."""
        given = {"num_threads": THREADS_PER_RANK, **(self.model_extra or {})}
        if unknown := given.keys() - EngineConfig.__dataclass_fields__.keys():
            raise ConfigError(f"there is no setting {', '.join(sorted(unknown))}")
        for name in given.keys() & {"kv_cache_memory_bytes"}:
            given[name] = int(TypeAdapter(ByteSize).validate_python(given[name]))
        if "model" in given:
            given["model"] = on_any_node(given["model"])
        return TypeAdapter(EngineConfig).validate_python(given)


def app(args: Arguments) -> serve.Application:
    """The application for Ray Serve. Each replica has CPUs for all its threads; the ingress needs next to none."""
    engine = args.engine()
    names = () if args.served_model_name is None else (args.served_model_name,)
    server = ServerConfig(
        served_model_name=names,
        api_key=read_environment().server_keys(),
        allowed_hosts=args.allowed_hosts,
        allowed_origins=args.allowed_origins,
    )
    placed_by_us = engine.distributed_executor_backend == "mp"
    ranks = engine.tensor_parallel_size * engine.data_parallel_size
    cpus = ranks * (engine.num_threads or THREADS_PER_RANK) if placed_by_us else 0
    replicas = serve.deployment(EngineReplica).options(
        name="Engine",
        ray_actor_options={"num_cpus": cpus},
        max_ongoing_requests=2 * engine.max_num_seqs,
        health_check_period_s=HEALTH_SECONDS,
        autoscaling_config={
            "min_replicas": args.min_replicas,
            "max_replicas": args.max_replicas,
            "target_ongoing_requests": args.target_ongoing_requests or max(1, engine.max_num_seqs / 2),
            "upscale_delay_s": args.upscale_delay_s,
            "downscale_delay_s": args.downscale_delay_s,
        },
        request_router_config={
            "request_router_class": PrefixAffinityRouter,
            "request_router_kwargs": {"most_apart": args.most_apart},
        },
    )
    ingress = serve.deployment(Ingress).options(
        name="Ingress", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=server.max_num_queued_reqs
    )
    return ingress.bind(server, replicas.bind(engine, server))


class Ingress:
    """Takes HTTP requests, and gives each to a replica. Request ids are the business of Ray's proxy."""

    def __init__(self, server: ServerConfig, engines: DeploymentHandle) -> None:
        self._engines = engines.options(stream=True)
        self._guarded = add_access_checks(self._exchange, server)

    async def __call__(self, request: Request) -> Response:
        """Ray Serve's way in."""
        return _AppResponse(self._guarded)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (message := await receive())["type"] != "http.request":
            return  # the client is gone already
        body = message["body"]
        plain = {name: scope[name] for name in _SCOPE if name in scope}
        key = prefix_key(body)
        avoid: list[str] = []
        for left in reversed(range(TRIES)):
            call = self._engines.answer.remote(plain, body, key=key, avoid=tuple(avoid))
            if await _pass_on(call, send, avoid, last=left == 0):
                return
        await error_response(Unavailable(f"{TRIES} engines were lost before they answered"))(scope, receive, send)


class _AppResponse(Response):
    """A response that is an application."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _Prompt(msgspec.Struct):
    """As much of a request's body as says how its prompt begins."""

    prompt: Any = None
    messages: Any = None
    cache_salt: str | None = None


def prefix_key(body: bytes) -> str:
    """A text that begins alike for requests that share a beginning; empty for what is no prompt."""
    try:
        read = msgspec.json.decode(body, type=_Prompt)
    except msgspec.MsgspecError:
        return ""
    content = read.prompt or read.messages
    if isinstance(content, list) and content and not isinstance(content[0], int | dict):
        content = content[0]  # of several prompts the first
    if not content:
        return ""
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return f"{read.cache_salt or ''}|{text[:KEY_CHARACTERS]}"


async def _pass_on(call: Any, send: Send, avoid: list[str], *, last: bool) -> bool:
    """Send on what a replica answers; False if there is nothing of it to send, and another may be asked. Its id goes to
    `avoid`. With `last`, what the replica says is the answer, whatever it is."""
    start: Message | None = None
    begun = False
    try:
        async for message in call:
            if isinstance(message, str):
                avoid.append(message)
            elif message["type"] == "http.response.start":
                start = message
            elif begun:
                await send(message)
            elif start is None or (not last and _unserved(start, message)):
                return False
            else:
                begun = True
                await send(start)
                await send(message)
    except (RayError, RayServeException) as error:
        logger.warning("a replica was lost: %s", type(error).__name__)
        if start is not None and begun:
            await _break_off(start, send)
    return begun


def _unserved(start: Message, first: Message) -> bool:
    """Whether this is the answer of a server whose engine is gone, loading or shutting down."""
    lost = first["body"].startswith(b'data: {"error"') and b'"service_unavailable"' in first["body"]
    return bool(start["status"] == Unavailable("").status or lost)


async def _break_off(start: Message, send: Send) -> None:
    """A stream ends with an error event, as our own server's does. Raises `Unavailable` for any other body, which then
    ends before its time."""
    error = Unavailable("the engine was lost")
    kinds: Sequence[bytes] = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    if not kinds or not kinds[0].startswith(b"text/event-stream"):
        raise error
    await send({"type": "http.response.body", "body": event(envelope(error)) + DONE, "more_body": False})
