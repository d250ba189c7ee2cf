"""`serve`: runs a server process, from the listening socket to the exit code.

It listens before the model is loaded, so that health checks get a response. The first SIGTERM or SIGINT lets open
requests finish within the shutdown timeout; the second one ends them. So does SIGHUP, the end of the terminal, but a
second one changes nothing: shell and kernel each send one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import socket
import ssl
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import uvicorn
from rich.console import Console

from flover.config import EngineConfig, ServerConfig, read_keys
from flover.config.setting import flag_name
from flover.errors import ConfigError
from flover.ipc.spawn import ENGINE_COMMAND, Spawned
from flover.server.app import create_app, run_batches
from flover.server.app_state import AppState
from flover.server.batches.store import Store
from flover.server.http_config import HttpConfig
from flover.server.http_connections import OTHER_DESCRIPTORS, SPARE_CONNECTIONS, Connections, allow_descriptors
from flover.server.http_hosts import check_exposure
from flover.server.http_protocol import HttpProtocol
from flover.server.loading import load
from flover.server.log import log_to_stderr
from flover.server.text_side import TextSide
from flover.server.throughput import log_throughput
from flover.server.tls import ServerLoop, tls_context
from flover.service.supervisor import Supervisor

FLUSH_SECONDS = 5
"""Seconds for connections to receive written data when the server ends."""
EXIT_NO_ENGINE = 70
"""EX_SOFTWARE of sysexits.h: the engine died too often. A service manager may start the server again."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


def serve(
    engine_config: EngineConfig,
    config: ServerConfig,
    *,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    spawned: Spawned | None = None,
    text: TextSide | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, or until the engine has died too often; returns the exit code.

    `engine_command` is what to run as an engine process; `spawned` is the first one, if it runs already; `text` is the
    text side, if it has been loaded.
    Raises `ConfigError`, `ModelError` or `EngineError` when the server cannot start.
    """
    config = _with_key_file(config)
    check_exposure(config)
    tls = tls_context(config)
    with (
        log_to_stderr(config.log_level),
        contextlib.closing(Store(config.batch_dir, config.limits.max_stored_bytes, time.time)) as store,  # noqa: TID251
        _listen(config) as sock,
        asyncio.Runner(loop_factory=lambda: ServerLoop(config.limits.header_timeout)) as runner,
    ):
        return runner.run(_serve(engine_config, config, store, sock, tls, engine_command, spawned, text))


def _with_key_file(config: ServerConfig) -> ServerConfig:
    """The settings with the keys of `--api-key-file`."""
    if config.api_key_file is None:
        return config
    found = read_keys(config.api_key_file)
    keys = dict.fromkeys((*config.api_key, *(limits.key for limits in found)))
    return dataclasses.replace(config, api_key=tuple(keys), key_limits=found)


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot listen on --host {config.host} --port {config.port}: {reason}") from error


class _Console(Console):
    """The terminal, or the file or pipe in its place: a full disk and a reader that is gone end no server."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print if that is possible."""
        with suppress(OSError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Go on, where rich ends the program."""


async def _serve(
    engine_config: EngineConfig,
    config: ServerConfig,
    store: Store,
    sock: socket.socket,
    tls: ssl.SSLContext | None,
    engine_command: Sequence[str],
    spawned: Spawned | None,
    text: TextSide | None,
) -> int:
    console = _Console(soft_wrap=True, highlight=False)
    url = _url(sock, "http" if tls is None else "https")
    state = AppState(engine_config, config)
    server = _Server(_http_config(state, tls))
    serving = asyncio.create_task(server.serve(sockets=[sock]), name="http")
    signals = _Signals()
    supervisor: Supervisor | None = None
    reporting: asyncio.Task[None] | None = None
    try:
        console.print(f"listening on {url}, loading {engine_config.model}", markup=False)
        supervisor = await signals.unless_first(load(state, engine_config, engine_command, spawned, console, text))
        if supervisor is not None:
            state.batches = run_batches(state, store)
            _announce(console, state, engine_config, url)
            reporting = asyncio.create_task(log_throughput(supervisor)) if config.log_stats else None
            await signals.unless_first(supervisor.given_up.wait())
            if supervisor.given_up.is_set():
                console.print(
                    f"the engine is not started again: {supervisor.last_failure}: shutting down", markup=False
                )
                return EXIT_NO_ENGINE
        console.print("shutting down: open requests may finish, a second signal ends them", markup=False)
        await _stop_batches(state)
        await signals.unless_second(state.drain(config.shutdown_timeout))
    finally:
        await _stop_batches(state)
        state.abort_open()
        server.should_exit = True
        await signals.unless_second(asyncio.wait({serving}))
        server.force_exit = True
        await serving
        if reporting is not None:
            reporting.cancel()
        if supervisor is not None:
            await supervisor.close()
        state.close()
    return 0


async def _stop_batches(state: AppState) -> None:
    """Batches are gone on with by the next server; they are no open requests that may finish."""
    if state.batches is not None:
        await state.batches.close()


def _http_config(state: AppState, tls: ssl.SSLContext | None) -> HttpConfig:
    debug, limits = state.config.log_level == "debug", state.config.limits
    descriptors = allow_descriptors(limits.max_connections + SPARE_CONNECTIONS + OTHER_DESCRIPTORS)
    return HttpConfig(
        create_app(state),
        limits,
        Connections(limits.max_connections, descriptors),
        HttpProtocol,
        log_level="debug" if debug else "warning",
        access_log=debug,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: `_Signals` handles them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Signals:
    """Handlers of SIGTERM, SIGINT and SIGHUP: events for the first and the second signal."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._arrived)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            loop.add_signal_handler(signal.SIGHUP, self.first.set)

    def _arrived(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    async def unless_first(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None if the first signal comes before it; `work` is then cancelled."""
        return await _unless(self.first, work)

    async def unless_second(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The same with the second signal."""
        return await _unless(self.second, work)


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


def _url(sock: socket.socket, scheme: str) -> str:
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _announce(console: Console, state: AppState, config: EngineConfig, url: str) -> None:
    facts, name = state.facts, state.model_names[0]
    size = f", {facts.num_parameters / 1e6:.1f}M parameters" if facts.num_parameters else ""
    prompt = "Once upon a time" if state.tokenizer is not None else [1, 2, 3]
    body = json.dumps({"model": name, "prompt": prompt, "max_tokens": 50}).replace("'", "'\\''")
    key = "" if not state.config.api_key else ' -H "Authorization: Bearer $FLOVER_API_KEY"'
    console.print(
        f"ready: {url}  model {name} ({facts.architecture}{size}), {facts.dtype}, "
        f"pool of {facts.pool_tokens} tokens, context {facts.max_model_len}, {config.max_num_seqs} rows\n"
        f"  curl {url}/v1/completions{key} -H 'Content-Type: application/json' -d '{body}'\n"
        f"  dashboard: {url}/dashboard in a browser, or flover top {url}",
        markup=False,
    )
    limits = dataclasses.asdict(state.config.limits)
    logger.debug("limits: %s", ", ".join(f"{flag_name(name)} {value}" for name, value in limits.items()))
