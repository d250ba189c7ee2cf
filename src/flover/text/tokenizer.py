"""Text to token ids and back, over the `tokenizers` library and the tokenizer.json of a model.

A `Tokenizer` is never changed after loading (no truncation, no padding), so threads may share it. It knows nothing of
requests; chat templates are only carried, not rendered, here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from flover.errors import ModelError, RequestError
from flover.generation_config import MAX_TOKENIZER_BYTES
from flover.source import ModelSource, open_source
from flover.text.files import TokenizerFiles, read_tokenizer_files
from flover.text.growth import check_growth
from flover.text.pieces import PieceRule, read_decoder

_OTHER_FORMATS = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "vocab.json", "tekken.json")
_T = TypeVar("_T")


class Tokenizer:
    """The tokenizer of one model. Make it with `Tokenizer.load`."""

    def __init__(self, backend: tokenizers.Tokenizer, rule: PieceRule, files: TokenizerFiles) -> None:
        self._backend = backend
        self._rule = rule
        self._files = files
        self._token_bytes: dict[int, bytes] = {}
        self._special_ids = _special_ids(backend, files)
        self._added = frozenset(backend.get_added_tokens_decoder())

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read the tokenizer of the model at `path`. Raises `ModelError`."""
        return cls.read(open_source(path))

    @classmethod
    def read(cls, source: ModelSource) -> Tokenizer:
        """Read a model's tokenizer. Raises `ModelError` if it is missing, damaged or of another kind."""
        text = _read_tokenizer_json(source)
        files = read_tokenizer_files(source)
        try:
            described = json.loads(text)
            check_growth(described)
            rule = read_decoder(described.get("decoder"))
            backend = _guarded(lambda: _make_backend(text, files))
        except (ValueError, AttributeError, RecursionError, _LibraryError) as error:
            raise ModelError(f"{source.where('tokenizer.json')} is damaged or not supported: {error}") from error
        return cls(backend, rule, files)

    # Text to ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with `add_special_tokens` as the model wants its prompts to begin (and end),
        which its tokenizer.json alone decides, as in transformers 5 (`add_bos_token` is for files that have none).

        Raises `RequestError` if the text is not valid Unicode.
        """
        try:
            # Of the library's functions, those for batches alone let other threads run meanwhile.
            (found,) = _guarded(lambda: self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens))
        except _LibraryError as error:
            raise RequestError(f"text cannot be tokenized: {_reason(text, error)}", param="prompt") from error
        ids: list[int] = found.ids
        return ids[1:] if self._begins_twice(text, ids) else ids

    def _begins_twice(self, text: str, ids: list[int]) -> bool:
        """Whether a text that begins with the text of the beginning-of-sequence token was given another one."""
        bos = self.bos_id
        return bos is not None and ids[:2] == [bos, bos] and text.startswith(self._files.special_tokens["bos_token"])

    # Ids to text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids: their bytes joined and read as UTF-8, U+FFFD for what is not UTF-8.

        The same as the library's `decode`, but for byte tokens ("<0xE2>") that are not UTF-8: there the library also
        replaces valid neighbours. Ids that the tokenizer does not know have no text.
        """
        parts = [self.token_bytes(token) for token in ids if not (skip_special_tokens and self.is_special(token))]
        parts = [part for part in parts if part]
        if parts:
            parts[0] = self.strip_start(parts[0])
        return b"".join(parts).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token inside a text; empty for an id that the tokenizer does not know."""
        known = self._token_bytes.get(token_id)
        if known is None:
            token = self.token_name(token_id)
            known = b"" if token is None else self._bytes_of(token_id, token)
            self._token_bytes[token_id] = known
        return known

    def _bytes_of(self, token_id: int, token: str) -> bytes:
        """Added tokens of a byte-level tokenizer are written as their text, all others in its alphabet of bytes."""
        if self._rule.byte_level and token_id in self._added:
            return token.encode(errors="replace")
        return self._rule.token_bytes(token)

    def strip_start(self, raw: bytes) -> bytes:
        """What the first token of a text keeps of its bytes: SentencePiece drops a leading space there."""
        return self._rule.strip_start(raw)

    def token_to_str(self, token_id: int) -> str:
        """The text of one token, as log-probabilities show it: spaces kept, U+FFFD for a part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_name(self, token_id: int) -> str | None:
        """How the vocabulary writes a token ("Ġthe", "▁the"); None for an id that it does not hold."""
        name: str | None = self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return name

    # Facts

    def token_id(self, name: str) -> int | None:
        """The id of a token as the vocabulary writes it."""
        found: int | None = self._backend.token_to_id(name)
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether the token steers the model and is no text (end of sequence, roles of a chat)."""
        return token_id in self._special_ids

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special_ids

    def holds_special(self, text: str) -> bool:
        """Whether the text of a special token is in `text`."""
        return any(name in text for name in self._special_names)

    @cached_property
    def _special_names(self) -> frozenset[str]:
        return frozenset(name for name in map(self.token_to_str, self._special_ids) if name)

    @property
    def adds_spaces(self) -> bool:
        """Whether texts have spaces that no token holds, between words that are tokens."""
        return self._rule.adds_spaces

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the named special tokens ("bos_token", "eos_token", …), as chat templates want them."""
        return dict(self._files.special_tokens)

    @cached_property
    def bos_id(self) -> int | None:
        name = self._files.special_tokens.get("bos_token")
        return None if name is None else self.token_id(name)

    @cached_property
    def eos_id(self) -> int | None:
        name = self._files.special_tokens.get("eos_token")
        return None if name is None else self.token_id(name)

    @property
    def chat_template(self) -> str | None:
        """Source of the model's chat template; None if it has none."""
        return self._files.chat_template

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; the model's logits may be wider."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def longest_token_len(self) -> int:
        """Characters of the longest token: a text of c characters has at least c / longest_token_len tokens."""
        return max(map(len, self._backend.get_vocab(with_added_tokens=True)), default=1)


class _LibraryError(Exception):
    """The tokenizers library raised, or panicked."""


def _guarded(call: Callable[[], _T]) -> _T:
    """Run code of the library. A panic inside it is a `BaseException` and must not pass for an order to exit."""
    try:
        return call()
    except Exception as error:
        raise _LibraryError(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _LibraryError(f"the tokenizers library panicked: {error}") from None


def _reason(text: str, error: Exception) -> str:
    """The library does not say what is wrong with a text that is not valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as found:
        return f"there is a lone surrogate at position {found.start}"
    return str(error)


def _read_tokenizer_json(source: ModelSource) -> str:
    text = source.text("tokenizer.json", MAX_TOKENIZER_BYTES)
    if text is not None:
        return text
    others = [name for name in _OTHER_FORMATS if source.has(name)]
    if others:
        raise ModelError(
            f"no tokenizer.json in {source.path}; {', '.join(others)} is there, but only tokenizer.json is supported: "
            "make it with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    if not source.has("config.json"):
        raise ModelError(f"{source.path} has no config.json: it is not the directory of a model")
    raise ModelError(f"no tokenizer.json in {source.path}")


def _make_backend(described: str, files: TokenizerFiles) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer.from_str(described)
    backend.no_truncation()
    backend.no_padding()
    known: list[Any] = [text for text in sorted(files.special_texts) if backend.token_to_id(text) is not None]
    backend.add_special_tokens(known)
    backend.encode("A first try, so that a broken file fails here.", add_special_tokens=True)
    return backend


def _special_ids(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> frozenset[int]:
    flagged = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    named = (backend.token_to_id(text) for text in files.special_texts)
    return frozenset(flagged.union(token for token in named if token is not None))
