"""Checks of the Host and Origin headers, for servers without an API key.

Web pages in a browser on this machine can reach a server on loopback. DNS rebinding is blocked by checking the
Host header, and requests from other sites by checking the Origin header.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from flover.config import ServerConfig
from flover.errors import ConfigError, quoted
from flover.server.errors import HttpError
from flover.server.http_body import refuse
from flover.server.http_paths import LIVENESS_PATHS


class Hosts:
    """Refuses requests without exactly one Host; without API keys also those with another Host or a foreign Origin."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._any_host = bool(config.api_key) or "*" in config.allowed_hosts
        self._any_origin = bool(config.api_key) or "*" in config.allowed_origins
        self._allowed = {_name(host) for host in config.allowed_hosts} | {_name(config.host)}
        self._any_address = _address(config.host) is not None and not is_loopback(config.host)
        self._is_ours = lru_cache(maxsize=256)(self._is_name_of_ours)
        self._origins = {origin.lower().rstrip("/") for origin in config.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in LIVENESS_PATHS:
            hosts, origins = [], []
            for name, value in scope["headers"]:
                if name == b"host":
                    hosts.append(value)
                elif name == b"origin":
                    origins.append(value)
            error = self._wrong(hosts, origins, scope["http_version"])
            if error is not None:
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _wrong(self, hosts: Sequence[bytes], origins: Sequence[bytes], version: str) -> HttpError | None:
        if len(hosts) > 1 or (not hosts and version != "1.0"):
            return HttpError(400, f"a request has one Host header, this one has {len(hosts)}")
        if self._any_host and self._any_origin:
            return None
        host = hosts[0].decode("latin-1").strip().lower() if hosts else ""
        if not self._any_host and not self._is_ours(host[:300]):
            return HttpError(
                403,
                f"Host {quoted(host, 100)} is not a name of this server: without an API key it answers to those of its "
                "own machine and of --allowed-hosts",
            )
        if not self._any_origin:
            for origin in origins:
                if not self._may_ask(origin.decode("latin-1").strip().lower(), host):
                    return HttpError(
                        403,
                        f"pages of {quoted(origin.decode('latin-1'), 100)} may not use this server: without an API key "
                        "it answers to its own and to those of --allowed-origins",
                    )
        return None

    def _is_name_of_ours(self, host: str) -> bool:
        name = _name(host)
        return is_loopback(name) or name in self._allowed or (self._any_address and _address(name) is not None)

    def _may_ask(self, origin: str, host: str) -> bool:
        scheme, found, place = origin.partition("://")
        if origin in self._origins:
            return True
        return (
            bool(found) and scheme in ("http", "https") and _without_port(place, scheme) == _without_port(host, scheme)
        )


def is_loopback(name: str) -> bool:
    """Whether a host is loopback: `localhost`, 127.0.0.0/8, ::1."""
    address = _address(name)
    return name == "localhost" if address is None else address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _name(host: str) -> str:
    """A Host without port, brackets and final dot, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    if name.count(":") == 1:
        name = name.partition(":")[0]
    return name.removesuffix(".")


def _without_port(place: str, scheme: str) -> str:
    """`host:port` without the default port of the scheme."""
    return place.removesuffix(":443" if scheme == "https" else ":80")


def check_exposure(config: ServerConfig) -> None:
    """Refuse to listen for other machines without a key. Raises `ConfigError`."""
    if not config.api_key and not config.allow_unauthenticated and not is_loopback(config.host):
        raise ConfigError(
            f"--host {config.host} lets other machines in: give clients a key with --api-key or FLOVER_API_KEY, or say "
            "--allow-unauthenticated"
        )
