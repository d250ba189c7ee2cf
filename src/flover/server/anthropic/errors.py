"""Events, and errors inside a stream, in Anthropic's format."""

from __future__ import annotations

from typing import Any

import msgspec

from flover.server.errors import anthropic_envelope
from flover.server.sse import Framing


def _event(content: dict[str, Any]) -> bytes:
    """One event, under the name of its type."""
    return b"event: %b\ndata: %b\n\n" % (content["type"].encode(), msgspec.json.encode(content))


EVENTS = Framing(
    encode=_event,
    error=lambda error: _event(anthropic_envelope(error)),
    end=b"",
    keep_alive=_event({"type": "ping"}),
)
