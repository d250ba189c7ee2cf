"""Token ids to text, one at a time, without ever splitting a character.

The text of a sequence is the bytes of its tokens, joined and read as UTF-8 with U+FFFD for what is not UTF-8; here
the same is done incrementally, at a cost that does not depend on the length of the text. The detokenizer knows
nothing of stop strings.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from flover.text.tokenizer import Tokenizer

_REPLACEMENT = "�"
_UTF8 = codecs.getincrementaldecoder("utf-8")
_LONGEST_CHARACTER = 4


class Detokenizer:
    """The text that `ids` add to a prompt, piece by piece.

    Law: the pieces joined are `tokenizer.decode(prompt_ids + ids)` without its longest common beginning with
    `tokenizer.decode(prompt_ids)`. So the prompt never shows; if it ends inside a character, the whole character
    appears with the token that completes it. An incomplete character is held back until it is complete or cannot
    become so, and comes out as U+FFFD at the end.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._utf8 = _UTF8(errors="replace")
        self._at_start = not any(self._bytes(token) for token in reversed(prompt_ids))
        pending = self._unfinished(prompt_ids)
        # What the prompt shows of it: usually one U+FFFD; ED A0, which no character begins with, is held back and two.
        self._prompt_owes = len(pending.decode(errors="replace"))
        self._utf8.decode(pending)

    def feed(self, token_id: int) -> str:
        """Take one id and return the text that is certain now; ids without text give an empty string."""
        raw = self._bytes(token_id)
        if raw and self._at_start:
            raw = self._tokenizer.strip_start(raw)
            self._at_start = False
        return self._own(self._utf8.decode(raw)) if raw else ""

    def finish(self) -> str:
        """No more ids: an incomplete character comes out as U+FFFD."""
        return self._own(self._utf8.decode(b"", final=True))

    def _bytes(self, token_id: int) -> bytes:
        if self._skip and self._tokenizer.is_special(token_id):
            return b""
        return self._tokenizer.token_bytes(token_id)

    def _unfinished(self, prompt_ids: Sequence[int]) -> bytes:
        """The bytes of a character that the prompt began and did not end (0 to 3 bytes)."""
        tail = b""
        for token in reversed(prompt_ids):
            if len(tail) >= _LONGEST_CHARACTER:
                break
            tail = self._bytes(token) + tail
        decoder = _UTF8(errors="replace")
        decoder.decode(tail[-_LONGEST_CHARACTER:])
        return decoder.getstate()[0]

    def _own(self, text: str) -> str:
        """Drop every U+FFFD that stands for the prompt's own broken end."""
        if not text or not self._prompt_owes:
            return text
        owed = text[: self._prompt_owes]
        self._prompt_owes = 0
        return text[len(owed) - len(owed.lstrip(_REPLACEMENT)) :]
