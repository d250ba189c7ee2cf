"""TLS of the listening socket (`--ssl-certfile`, `--ssl-keyfile`): its certificates, and the time of a handshake."""

from __future__ import annotations

import ssl
from typing import Any

import uvloop

from flover.config import ServerConfig
from flover.errors import ConfigError


def tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    """What the server proves itself with; None without TLS. Raises `ConfigError`."""
    if config.ssl_certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    files = f"--ssl-certfile {config.ssl_certfile}"
    if config.ssl_keyfile is not None:
        files += f" --ssl-keyfile {config.ssl_keyfile}"
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(f"{files}: not a certificate and its key in PEM form ({error.reason})") from None
    except OSError as error:
        raise ConfigError(f"{files}: cannot be read: {error.strerror}") from None
    return context


def _no_password() -> str:
    raise ConfigError("--ssl-keyfile: the key has a password, and nothing could type it: store it without one")


class ServerLoop(uvloop.Loop):
    """uvloop's event loop, whose TLS servers close a connection that has not shaken hands within `seconds`. The HTTP
    protocol, with its own times and its count of connections, sees a connection only after that."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._handshake_seconds = seconds

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """uvloop's, with the time limit if there is TLS."""
        if kwargs.get("ssl") is not None:
            kwargs["ssl_handshake_timeout"] = self._handshake_seconds
        return await super().create_server(*args, **kwargs)
