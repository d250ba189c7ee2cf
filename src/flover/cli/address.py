"""Parses the address of a running server."""

from __future__ import annotations

import urllib.parse

from flover.errors import ConfigError


def server_address(url: str, flag: str = "URL") -> str:
    """The server's base address, without a path of the API or the dashboard. Raises `ConfigError` naming `flag`."""
    base = url.strip().rstrip("/").removesuffix("/v1").removesuffix("/dashboard").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(base)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # an invalid port, an unclosed bracket
        known = False
    if not known or any(char.isspace() or not char.isprintable() for char in base):
        raise ConfigError(
            f"{flag} must begin with http:// or https:// and name a host, such as http://127.0.0.1:8000, got {url!r}"
        )
    return base
