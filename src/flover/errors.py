"""Whose fault it is: every error Flover raises on purpose belongs to one of these classes.

The sentences about a wrong field of a request are made here too, for the server and for `LLM` alike.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import msgspec

MAX_SHOWN_DIGITS = 40
MAX_SHOWN_CHARACTERS = 60
"""Numbers and strings up to this length are shown whole in an error."""
MAX_NAME_CHARACTERS = 64
MAX_SHOWN_BYTES = 4096
"""Longest piece of JSON that is read to be shown."""
_KINDS = {ord('"'): "a string", ord("["): "a list", ord("{"): "an object"}


class FloverError(Exception):
    """Base of all errors that Flover raises on purpose."""

    http_status: ClassVar[int] = 500
    """What the server answers to a request that ended with it."""


class RequestError(FloverError, ValueError):
    """The caller asked for something that cannot be done.

    `param` names the field at fault (None when it is the whole request); `code` is OpenAI's short code.
    """

    http_status = 400

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ConfigError(FloverError, ValueError):
    """A flag or a combination of flags cannot be honoured."""


class ModelError(FloverError):
    """Model files are missing, damaged, or of a kind that Flover does not run."""


class EngineError(FloverError):
    """Flover's own fault: a request ended because the engine could not go on with it."""


class EngineDeadError(EngineError):
    """The engine has crashed, hangs, or cannot be reached; it takes no more requests. Another one may be started."""

    http_status = 503


class RankLostError(EngineDeadError):
    """A rank of a tensor-parallel engine has ended or does not answer, and the others cannot go on without it."""


class EngineClosedError(EngineError):
    """The engine was closed on purpose: `close` was called, or the server shuts down."""

    http_status = 503


class DeadlineError(EngineError):
    """The request's `deadline_ms` has passed. The status is that of a refusal at the door for the same reason."""

    http_status = 429


class RequestAbortedError(EngineError):
    """The engine ended this request because it was itself going down."""

    http_status = 503


class OutOfResourcesError(EngineError):
    """The machine has no descriptor, memory or process left to start an engine with; later there may be one."""

    http_status = 503


class InvariantError(FloverError, AssertionError):
    """A law of the engine was found broken: a bug, reported loudly and never repaired in silence."""


def wrong_value(where: str, wanted: str, value: Any, *, param: str | None = None, flag: str = "") -> RequestError:
    """The error about one field of a request: where it is, what it must be, what it is, and the flag of its limit.

    `where` is written as in `messages[0].content[1]`; `param` is its first name unless given.
    """
    limit = f" ({flag})" if flag else ""
    return RequestError(f"{where} must be {wanted}{limit}, got {shown(value)}", param=param or first_name(where))


def too_many(where: str, most: int, kind: str, count: int | None = None, *, flag: str = "") -> RequestError:
    """The error about a list or an object of more than `most` members; `count` is None where nothing counted on."""
    limit = f"{flag} {most}" if flag else str(most)
    got = "more" if count is None else str(count)
    return RequestError(f"{where} may hold at most {limit} {kind}, got {got}", param=first_name(where))


def first_name(where: str) -> str:
    """The field of the request that a place such as `messages[0].role` is in."""
    return where.partition(".")[0].partition("[")[0]


def quoted(text: str, most: int = 200) -> str:
    """A client's text in a sentence: cut, and between the quotation marks of JSON."""
    return json.dumps(text[:most], ensure_ascii=not text[:most].isprintable())


def named(name: str) -> str:
    """A name that a client gave, in an error: short identifiers as they are, else as `shown`."""
    return name if name.isidentifier() and len(name) <= MAX_NAME_CHARACTERS else shown(name)


def shown(value: Any) -> str:
    """A value in an error, in JSON's words: short ones as they are, long ones by kind and size. JSON that has not been
    read is given as `msgspec.Raw`."""
    if isinstance(value, msgspec.Raw):
        return _shown_json(bytes(value).strip())
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        digits = math.ceil(value.bit_length() * math.log10(2))
        return str(value) if digits <= MAX_SHOWN_DIGITS else f"a number of {digits} digits"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        if len(value) > MAX_SHOWN_CHARACTERS:
            return f"a string of {len(value)} characters"
        return f"the string {quoted(value)}"
    if isinstance(value, Mapping):
        return f"an object with {len(value)} {'field' if len(value) == 1 else 'fields'}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"a value of type {type(value).__name__}"


def _shown_json(raw: bytes) -> str:
    try:
        if len(raw) <= MAX_SHOWN_BYTES:
            return shown(msgspec.json.decode(raw))
    except msgspec.ValidationError:
        pass  # a number that no type holds
    kind = _KINDS.get(raw[0])
    if kind is not None:
        return f"{kind} of {len(raw)} bytes"
    return raw.decode() if len(raw) <= MAX_SHOWN_DIGITS else f"a number of {len(raw)} digits"


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for the known names similar to `name`; "" if there is none."""
    import difflib  # slow to import, and only errors need it

    near = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.7)
    return f"; did you mean {' or '.join(near)}?" if near else ""
