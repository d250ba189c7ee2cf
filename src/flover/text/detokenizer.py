"""Token ids to text, one at a time, without ever splitting a character.

The text of a sequence is the bytes of its tokens, joined and read as UTF-8 with U+FFFD for what is not UTF-8; here
the same is done incrementally, at a cost that does not depend on the length of the text. The detokenizer knows
nothing of stop strings.
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
    """What the text that follows a prompt depends on: whether the prompt has text at all, and the bytes (0 to 3) of a
    character that it began and did not end."""

    has_text: bool
    pending: bytes


def prompt_end(tokenizer: Tokenizer, prompt_ids: Sequence[int], *, skip_special_tokens: bool = True) -> PromptEnd:
    """The end of a prompt, found once for all sequences that continue it: it may take a look at every token."""
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

    `prompt` is the end of a prompt `prompt_ids`. Law: the pieces joined are `tokenizer.decode(prompt_ids + ids)`
    without its longest common beginning with `tokenizer.decode(prompt_ids)`. So the prompt never shows; if it ends
    inside a character, the whole character appears with the token that completes it. An incomplete character is held
    back until it is complete or cannot become so, and comes out as U+FFFD at the end.
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
        # What the prompt shows of it: usually one U+FFFD; ED A0, which no character begins with, is held back and two.
        self._prompt_owes = len(prompt.pending.decode(errors="replace"))
        self._utf8.decode(prompt.pending)

    def feed(self, token_id: int) -> str:
        """Take one id and return the text that is certain now; ids without text give an empty string."""
        raw = _bytes_of(self._tokenizer, token_id, self._skip)
        if raw and self._at_start:
            raw = self._tokenizer.strip_start(raw)
            self._at_start = False
        return self._own(self._utf8.decode(raw)) if raw else ""

    def finish(self) -> str:
        """No more ids: an incomplete character comes out as U+FFFD."""
        return self._own(self._utf8.decode(b"", final=True))

    def _own(self, text: str) -> str:
        """Drop every U+FFFD that stands for the prompt's own broken end."""
        if not text or not self._prompt_owes:
            return text
        owed = text[: self._prompt_owes]
        self._prompt_owes = 0
        return text[len(owed) - len(owed.lstrip(_REPLACEMENT)) :]


def token_texts(tokenizer: Tokenizer, ids: Sequence[int], *, skip_special_tokens: bool = True) -> list[str]:
    """What each of these tokens adds to their text, which is all of it joined: the text of a character goes to the
    token that completes it."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    texts = [detokenizer.feed(token) for token in ids]
    if texts:
        texts[-1] += detokenizer.finish()
    return texts
