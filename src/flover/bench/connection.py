"""Error messages for servers that cannot be reached."""

from __future__ import annotations

import socket


def unreachable(url: str, error: BaseException) -> str:
    """One sentence for a network error of urllib or aiohttp."""
    cause = _cause(error)
    if isinstance(cause, ConnectionRefusedError):
        return f"cannot connect to {url}: connection refused; is the server running?"
    if isinstance(cause, socket.gaierror):
        return f"cannot connect to {url}: no such host"
    if isinstance(cause, TimeoutError):
        return f"no answer from {url}: timed out"
    if isinstance(cause, ConnectionError):
        return f"the connection to {url} broke off"
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"no answer from {url}: {reason}"


def _cause(error: BaseException) -> BaseException:
    """The system error that urllib or aiohttp wraps."""
    inner = getattr(error, "reason", None) or getattr(error, "os_error", None)
    if not isinstance(inner, BaseException):
        return _by_number(error)
    return _cause(inner)


def _by_number(error: BaseException) -> BaseException:
    """The error of one address, where asyncio joined several into an `OSError` without class and number."""
    if type(error) is OSError and error.errno is None and "Connect call failed" in str(error):
        return ConnectionRefusedError()
    return error
