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
        self.tokenizer = tokenizer
        self._cancel = cancel
        self._streams: dict[tuple[str, int], TextStream] = {}

    def add(self, request: Request, start: TextStart) -> list[TextStream]:
        """The streams of a request's sequences, in their order."""
        streams = [TextStream(self.tokenizer, request.params, start) for _ in range(request.params.n)]
        self._streams.update({(request.id, index): stream for index, stream in enumerate(streams)})
        return streams

    def find(self, delta: Delta) -> TextStream | None:
        """The stream of this delta; None if it has ended: an engine continues until it has read the cancellation."""
        return self._streams.get((delta.request_id, delta.index))

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Request id and index of the sequences that have not ended."""
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    def feed(self, stream: TextStream, delta: Delta) -> TextPiece:
        """What a delta adds to its stream, which has not ended."""
        piece = stream.feed(delta)
        if piece.finish_reason is not None:
            del self._streams[delta.request_id, delta.index]
            if piece.cancel:
                self._cancel(delta.request_id, delta.index)
        return piece
