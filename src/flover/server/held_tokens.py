"""Delays the log-probabilities of streamed tokens until their text is sent, in streams with stop strings."""

from __future__ import annotations

from dataclasses import replace

from flover.request import TokenLogprobs
from flover.text.stream import TextPiece


class HeldTokens:
    """The tokens of one sequence whose text is held back because it may be part of a stop string. Sent earlier, they
    could have texts and offsets that are not in the response."""

    def __init__(self) -> None:
        self._waiting: list[tuple[TokenLogprobs, str]] = []
        self._room = 0
        """Characters that have been sent and belong to no token yet."""

    def feed(self, piece: TextPiece) -> TextPiece:
        """The piece with the log-probabilities of the tokens whose text has been sent; the last one has all others."""
        if piece.logprobs is None:
            return piece
        self._waiting += zip(piece.logprobs, piece.token_texts, strict=True)
        self._room += len(piece.text)
        count = 0
        for _, text in self._waiting:
            if len(text) > self._room and piece.finish_reason is None:
                break
            self._room -= len(text)
            count += 1
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        return replace(piece, logprobs=tuple(entry for entry, _ in out), token_texts=tuple(text for _, text in out))
