"""Incremental detokenizer: token ids to text, one at a time, without splitting a character.

The text of a sequence is the joined bytes of its tokens, decoded as UTF-8 with U+FFFD for invalid bytes. The cost per
token does not depend on the length of the text. Stop strings are handled in `text/stops.py`.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from flover.text.tokenizer import Tokenizer

_REPLACEMENT = "�"
_UTF8 = codecs.getincrementaldecoder("utf-8")
_LONGEST_CHARACTER = 4


@dataclass(frozen=True, slots=True)
class PromptEnd:
    """The state of the detokenizer after a prompt: whether the prompt has text, and the bytes (0 to 3) of an incomplete
    character at its end."""

    has_text: bool
    pending: bytes


def prompt_end(tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool = True) -> PromptEnd:
    """The end of a prompt, computed once for all its sequences: it may have to read every token."""
    tail, has_text = b"", False
    for token in reversed(prompt_ids):
        tail = _bytes_of(tokenizer, token, skip_special_tokens) + tail
        has_text = bool(tail)
        if len(tail) >= _LONGEST_CHARACTER:
            break
    decoder = _UTF8(errors="replace")
    decoder.decode(tail[-_LONGEST_CHARACTER:])
    return PromptEnd(has_text, decoder.getstate()[0])


def _bytes_of(tokenizer: Tokenizer, token_id: int, skip_special_tokens: bool) -> bytes:
    return b"" if skip_special_tokens and tokenizer.is_special(token_id) else tokenizer.token_bytes(token_id)


class Detokenizer:
    """The text that `ids` add to a prompt, piece by piece.

    `prompt` is the end of a prompt `prompt_ids`. Invariant: the joined pieces are `tokenizer.decode(prompt_ids + ids)`
    without its longest common prefix with `tokenizer.decode(prompt_ids)`. So the prompt is never repeated; if it ends
    inside a character, the whole character appears with the token that completes it. An incomplete character is held
    back until it is complete or cannot be completed, and becomes U+FFFD at the end.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: PromptEnd = PromptEnd(False, b""),  # frozen
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._utf8 = _UTF8(errors="replace")
        self._at_start = not prompt.has_text
        # How many U+FFFD the prompt's text has for it: usually one; two for ED A0, which starts no character.
        self._prompt_owes = len(prompt.pending.decode(errors="replace"))
        self._utf8.decode(prompt.pending)

    def feed(self, token_id: int) -> str:
        """Take one id and return the text that is final now; empty for ids without text."""
        raw = _bytes_of(self._tokenizer, token_id, self._skip)
        if raw and self._at_start:
            raw = self._tokenizer.strip_start(raw)
            self._at_start = False
        return self._own(self._utf8.decode(raw)) if raw else ""

    def finish(self) -> str:
        """The remaining text after the last id: an incomplete character becomes U+FFFD."""
        return self._own(self._utf8.decode(b"", final=True))

    def _own(self, text: str) -> str:
        """Drop every U+FFFD that belongs to the prompt's incomplete last character."""
        if not text or not self._prompt_owes:
            return text
        owed = text[: self._prompt_owes]
        self._prompt_owes = 0
        return text[len(owed) - len(owed.lstrip(_REPLACEMENT)) :]


def token_texts(tokenizer: Tokenizer, ids: Sequence[int], *, skip_special_tokens: bool = True) -> list[str]:
    """The text that each of these tokens adds; joined they are the whole text. A character belongs to the token that
    completes it."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    texts = [detokenizer.feed(token) for token in ids]
    if texts:
        texts[-1] += detokenizer.finish()
    return texts
