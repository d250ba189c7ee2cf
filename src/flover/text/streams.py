"""From deltas to text, for the sequences of several requests at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flover.request import Delta, Request
from flover.text.stream import TextPiece, TextStart, TextStream
from flover.text.tokenizer import Tokenizer


class TextStreams:
    """The sequences that have not ended, by request id and index. `cancel` ends one in the engine: it is called for a
    sequence that a stop string has ended."""

    def __init__(self, tokenizer: Tokenizer | None, cancel: Callable[[str, int], None]) -> None:
        self._tokenizer = tokenizer
        self._cancel = cancel
        self._streams: dict[tuple[str, int], TextStream] = {}

    def add(self, request: Request, start: TextStart) -> list[TextStream]:
        """The streams of a request's sequences, in their order."""
        streams = [TextStream(self._tokenizer, request.params, start) for _ in range(request.params.n)]
        self._streams.update({(request.id, index): stream for index, stream in enumerate(streams)})
        return streams

    def __contains__(self, delta: Delta) -> bool:
        """Whether the sequence of this delta has not ended. An engine continues until it has read the cancellation."""
        return (delta.request_id, delta.index) in self._streams

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Request id and index of the sequences that have not ended."""
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def feed(self, delta: Delta) -> TextPiece:
        """What a delta of a sequence that has not ended adds to its text."""
        key = delta.request_id, delta.index
        piece = self._streams[key].feed(delta)
        if piece.cancel:
            self._cancel(*key)
        if piece.finish_reason is not None:
            del self._streams[key]
        return piece
