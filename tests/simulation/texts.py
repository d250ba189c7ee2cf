"""L8, the law of texts, for sequences of a simulated run: what its deltas give, piece by piece, is what one reading of
all its tokens gives, cut at the first stop string.

Tokens of the hash model become bytes here: letters, whole characters, parts of characters, and bytes that belong to
none. The reference knows nothing of streams: it joins the bytes, reads them as UTF-8, and searches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import cast

from flover.request import Delta, FinishReason, Request, SamplingParams
from flover.text.stream import TextStream, text_start
from flover.text.tokenizer import Tokenizer

from .broken import require

PIECES = (
    *(letter.encode() for letter in "abab \n"),
    *(word.encode() for word in ("ab", "ba", "é", "字", "🦊", " fox")),
    *(b"\xc3", b"\xa9", b"\xe5", b"\xad\x97", b"\xf0\x9f", b"\xa6", b"\x8a", b"\xff", b"\xed\xa0"),
)
STOPS = ("ab", "ba", "bab", "é", "🦊", " fox", "\n", "a b", "�", "字a")


class ByteTokens:
    """As much of a tokenizer as a text stream asks for."""

    def __init__(self, special_ids: Iterable[int]) -> None:
        self._special = frozenset(special_ids)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def token_bytes(self, token_id: int) -> bytes:
        return PIECES[token_id % len(PIECES)]

    def strip_start(self, raw: bytes) -> bytes:
        return raw

    def holds_special(self, text: str) -> bool:
        return False


class Text:
    """One sequence as its reader sees it. Its stop strings are drawn from the request's seed."""

    def __init__(self, request: Request, index: int, eos_ids: Sequence[int]) -> None:
        rng = Random(f"texts {request.seed + index}")
        stops = [] if request.params.min_tokens else rng.sample(STOPS, rng.choice((0, 0, 1, 3)))
        self._params = request.params.replace(
            stop=stops or None, include_stop_str_in_output=rng.random() < 0.3, logprobs=None, prompt_logprobs=None
        )
        self._prompt_ids = request.prompt_ids
        self._tokens = ByteTokens(eos_ids)
        self._stream = self._open()
        self._shown: list[str] = []
        self._all: list[int] = []

    def _open(self) -> TextStream:
        tokens = cast(Tokenizer, self._tokens)
        return TextStream(tokens, self._params, text_start(tokens, self._params, self._prompt_ids))

    def feed(self, delta: Delta) -> None:
        """News of this sequence. Raises `LawBroken` if it is the last and the text is not what it should be."""
        self._all += delta.token_ids
        self._shown.append(self._stream.feed(delta).text)
        if delta.finish_reason not in (None, FinishReason.ERROR):
            self._check(delta)

    def _check(self, last: Delta) -> None:
        shown, stops = "".join(self._shown), self._params.stop_strings
        wanted = self._reference(last.finish_reason is FinishReason.STOP)
        require("L8", shown == wanted, "deltas give {!r}, the tokens {!r}; stop strings {}", shown, wanted, stops)
        require("L8", self._stream.text == shown, "all of the text is {!r}, its deltas {!r}", self._stream.text, shown)
        whole = self._open()
        whole.feed(Delta(request_id="", token_ids=self._all, finish_reason=last.finish_reason))
        require("L8", whole.text == shown, "read at once it is {!r}, as deltas {!r}", whole.text, shown)

    def _reference(self, stopped: bool) -> str:
        params, ids = self._params, self._all
        if stopped and not params.include_stop_str_in_output:
            ids = ids[:-1]  # the token that ended it is not shown
        before, after = self._decode(self._prompt_ids), self._decode([*self._prompt_ids, *ids])
        shared = next(
            (i for i, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before)
        )
        text = after[shared:]
        return cut(text, params)

    def _decode(self, token_ids: Sequence[int]) -> str:
        kept = [each for each in token_ids if not self._tokens.is_special(each)]
        return b"".join(map(self._tokens.token_bytes, kept)).decode(errors="replace")


def cut(text: str, params: SamplingParams) -> str:
    """Up to the stop string that is complete first, the longest of those that are complete with the same character."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in params.stop_strings if text[:end].endswith(stop)]
        if complete:
            return text[: end if params.include_stop_str_in_output else end - len(max(complete, key=len))]
    return text
