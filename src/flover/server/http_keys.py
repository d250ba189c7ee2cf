"""API key authentication, and a salt per key that separates prefix caches and tells clients apart."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from flover.server.errors import HttpError
from flover.server.http_body import refuse
from flover.server.http_paths import LIVENESS_PATHS

OPEN_PATHS = LIVENESS_PATHS | {"/", "/dashboard"}
"""Paths without authentication; all others need a key, also unknown ones. The pages ask the user for it."""
KEY_SALT = "flover.key_salt"
"""The key of an ASGI scope for the salt of the request's API key."""


class ApiKey:
    """Lets requests through that carry one of the keys, as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.

    Digests are compared, in constant time and with every key. A request with several credentials must carry the same
    key in all of them: the server does not guess which of two counts.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._salts = {_digest(key.encode()): salt for key, salt in key_salts(keys).items()}
        self._digests = list(self._salts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            digest = self._key_of(scope)
            if digest is None:
                error = HttpError(401, "the API key is missing or wrong", code="invalid_api_key")
                await refuse(error, scope, receive, send)
                return
            scope = {**scope, KEY_SALT: self._salts[digest]}
        await self._app(scope, receive, send)

    def _key_of(self, scope: Scope) -> bytes | None:
        """The digest of the request's key, if it is valid."""
        found: set[bytes | None] = set()
        names = []
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, key = value.partition(b" ")
                found.add(self._known(key.strip()) if scheme.lower() == b"bearer" else None)
                names.append(name)
            elif name == b"x-api-key":
                found.add(self._known(value.strip()))
                names.append(name)
        return found.pop() if len(found) == 1 and len(set(names)) == len(names) else None

    def _known(self, sent: bytes) -> bytes | None:
        digest = _digest(sent)
        found = [hmac.compare_digest(digest, own) for own in self._digests]
        return digest if any(found) else None


def key_salts(keys: Sequence[str]) -> dict[str, str]:
    """A salt for each key, which tells nothing of it; empty if there is only one."""
    apart = len(set(keys)) > 1
    return {key: _digest(b"prefix cache" + _digest(key.encode())).hex() if apart else "" for key in keys}


def salt_of(scope: Scope) -> str:
    """The salt of the request's key; empty if there is only one."""
    salt: str = scope.get(KEY_SALT, "")
    return salt


def combine_salts(key_salt: str, own: str) -> str:
    """The salt of a request, from its key's salt and its `cache_salt`, which cannot reach another key's cache."""
    if not key_salt:
        return own
    return hashlib.sha256(
        b"".join(b"%d:%b" % (len(part), part) for part in (key_salt.encode(), own.encode()))
    ).hexdigest()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
