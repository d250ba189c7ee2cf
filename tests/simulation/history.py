"""What happened lately in a run, kept for the one reader who needs it: whoever looks at a broken law."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Any

import msgspec

RECENT = 60
"""Iterations that a report shows."""


class History:
    """A ring of recent events and a digest of all of them."""

    def __init__(self, keep: int = 2000) -> None:
        self._events: deque[tuple[int, str, Any]] = deque(maxlen=keep)
        self._digest = blake2b(digest_size=16)
        self.step = 0

    def add(self, kind: str, what: Any) -> None:
        """`what` is anything msgspec can encode; it must not change later."""
        self._events.append((self.step, kind, what))
        self._digest.update(kind.encode() + msgspec.msgpack.encode(what))

    @property
    def trace_hash(self) -> str:
        """Equal exactly if everything that happened is equal."""
        return self._digest.hexdigest()

    def render(self, recent: int = RECENT) -> str:
        """The events of the last iterations, one a line."""
        first = self.step - recent
        return "\n".join(f"{step:6d} {kind:8s} {_text(what)}" for step, kind, what in self._events if step >= first)


def _text(what: Any) -> str:
    """A struct without its empty fields; everything else as it is."""
    if isinstance(what, list):
        return "[" + ", ".join(_text(item) for item in what) + "]"
    if not isinstance(what, msgspec.Struct):
        return str(what)
    fields = {name: getattr(what, name) for name in what.__struct_fields__}
    shown = {name: value for name, value in fields.items() if value not in (None, [], "", {}) and name != "params"}
    return type(what).__name__ + "(" + ", ".join(f"{name}={_text(value)}" for name, value in shown.items()) + ")"
