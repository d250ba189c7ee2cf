"""The tokenizer of a model: text to token ids and back, with the `tokenizers` library and the model's
tokenizer.json (or vocab.json and merges.txt, its older form).

A `Tokenizer` is immutable after loading (no truncation, no padding), so threads may share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from flover.errors import ModelError, RequestError
from flover.generation_config import MAX_TOKENIZER_BYTES
from flover.source import ModelSource, open_source
from flover.source.sentencepiece_file import FILE as SENTENCEPIECE
from flover.structured_outputs import Vocabulary
from flover.text.bpe_files import describe_bpe, has_bpe_files
from flover.text.described import make_bpe
from flover.text.files import TokenizerFiles, read_tokenizer_files
from flover.text.growth import check_growth
from flover.text.pieces import PieceRule, read_decoder
from flover.text.sentencepiece_files import describe_sentencepiece

_OTHER_FORMATS = ("sentencepiece.bpe.model", "spiece.model", "vocab.json", "tekken.json")
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
        """Load the tokenizer of the model at `path`. Raises `ModelError`."""
        return cls.read(open_source(path))

    @classmethod
    def read(cls, source: ModelSource) -> Tokenizer:
        """Load the tokenizer of a model. Raises `ModelError` if it is missing, damaged or not supported."""
        files = read_tokenizer_files(source)
        try:
            if source.naming == "gguf":
                described = _described_in_gguf(source)
                make = partial(make_bpe, described)
            else:
                text = _read_tokenizer_json(source, files)
                described = json.loads(text)
                make = partial(tokenizers.Tokenizer.from_str, text)
            check_growth(described)
            rule = read_decoder(described.get("decoder"))
            backend = _catch_panic(lambda: _prepare(make(), files))
        except (ValueError, AttributeError, RecursionError, _LibraryError) as error:
            raise ModelError(f"{source.where(_file_of(source))} is damaged or not supported: {error}") from error
        return cls(backend, rule, files)

    # Text to ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text, with `add_special_tokens` those that tokenizer.json adds to prompts, as in
        transformers 5 (`add_bos_token` is for files that have none).

        Raises `RequestError` if the text is not valid Unicode.
        """
        try:
            # Only the library's batch functions release the GIL.
            (found,) = _catch_panic(
                lambda: self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
            )
        except _LibraryError as error:
            raise RequestError(f"text cannot be tokenized: {_reason(text, error)}", param="prompt") from error
        ids: list[int] = found.ids
        return ids[1:] if self._begins_twice(text, ids) else ids

    def _begins_twice(self, text: str, ids: list[int]) -> bool:
        """Whether the ids have the beginning-of-sequence token twice because the text starts with its text."""
        bos = self.bos_id
        return bos is not None and ids[:2] == [bos, bos] and text.startswith(self._files.special_tokens["bos_token"])

    # Ids to text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids: their joined bytes decoded as UTF-8, with U+FFFD for invalid bytes.

        The same as the library's `decode`, except for byte tokens ("<0xE2>") that are not UTF-8: there the library also
        replaces valid bytes beside them. Unknown ids have no text.
        """
        parts = [self.token_bytes(token) for token in ids if not (skip_special_tokens and self.is_special(token))]
        parts = [part for part in parts if part]
        if parts:
            parts[0] = self.strip_start(parts[0])
        return b"".join(parts).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token inside a text; empty for an unknown id."""
        known = self._token_bytes.get(token_id)
        if known is None:
            known = self._token_bytes[token_id] = self._bytes_of(token_id)
        return known

    def _bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token: of an added token of a byte-level tokenizer its text, of others by the rule."""
        token = self.token_name(token_id)
        if token is None:
            return b""
        if self._rule.byte_level and token_id in self._added:
            return token.encode(errors="replace")
        return self._rule.token_bytes(token)

    def strip_start(self, raw: bytes) -> bytes:
        """The bytes of the first token of a text: SentencePiece drops a leading space there."""
        return self._rule.strip_start(raw)

    def token_to_str(self, token_id: int) -> str:
        """The text of one token for log-probabilities: spaces kept, U+FFFD for a part of a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_name(self, token_id: int) -> str | None:
        """A token as written in the vocabulary ("Ġthe", "▁the"); None for an unknown id."""
        name: str | None = self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None
        return name

    # Properties

    def token_id(self, name: str) -> int | None:
        """The id of a token given as written in the vocabulary."""
        found: int | None = self._backend.token_to_id(name)
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether the token is special (end of sequence, roles of a chat) and not text."""
        return token_id in self._special_ids

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special_ids

    def holds_special(self, text: str) -> bool:
        """Whether `text` contains the text of a special token."""
        return any(name in text for name in self.special_texts)

    @cached_property
    def special_texts(self) -> dict[str, int]:
        """The ids of special tokens by their text."""
        named = ((self.token_to_str(token), token) for token in sorted(self._special_ids))
        return {name: token for name, token in named if name}

    @property
    def adds_spaces(self) -> bool:
        """Whether decoding adds spaces between tokens."""
        return self._rule.adds_spaces

    @property
    def special_tokens(self) -> dict[str, str]:
        """Texts of the named special tokens ("bos_token", "eos_token", …), for chat templates."""
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
        """The source of the model's chat template, or None."""
        return self._files.chat_template

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; the model's logits may have more entries."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What structured outputs are applied to. To make it of 150,000 tokens takes half a second."""
        # Not by `token_bytes`, which would keep them all a second time.
        return Vocabulary([self._bytes_of(token) for token in range(self.vocab_size)], sorted(self._special_ids))

    @cached_property
    def longest_token_len(self) -> int:
        """Characters of the longest token: a text of c characters has at least c / longest_token_len tokens."""
        longest = 1
        for name in map(self._backend.id_to_token, range(self.vocab_size)):
            if name is None:  # ids have gaps; to get all names at once takes four times the time, and 40 MB
                return max(map(len, self._backend.get_vocab(with_added_tokens=True)))
            longest = max(longest, len(name))
        return longest


class _LibraryError(Exception):
    """The tokenizers library raised, or panicked."""


def _catch_panic(call: Callable[[], _T]) -> _T:
    """Call the library. A panic inside it is a `BaseException` and must not end the process."""
    try:
        return call()
    except Exception as error:
        raise _LibraryError(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _LibraryError(f"the tokenizers library panicked: {error}") from None


def _reason(text: str, error: Exception) -> str:
    """The reason of an encoding error; the library gives none for invalid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as found:
        return f"there is a lone surrogate at position {found.start}"
    return str(error)


def _read_tokenizer_json(source: ModelSource, files: TokenizerFiles) -> str:
    """The content of tokenizer.json, or what it would be for older files."""
    text = source.text("tokenizer.json", MAX_TOKENIZER_BYTES)
    if text is not None:
        return text
    if has_bpe_files(source):
        return json.dumps(describe_bpe(source, files))
    if source.has(SENTENCEPIECE):
        return json.dumps(describe_sentencepiece(source, files))
    others = [name for name in _OTHER_FORMATS if source.has(name)]
    if others:
        raise ModelError(
            f"no tokenizer.json in {source.path}; {', '.join(others)} is there, but only tokenizer.json, "
            "tokenizer.model, or vocab.json with merges.txt, is supported: make it with transformers, "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    if not source.has("config.json"):
        raise ModelError(f"{source.path} has no config.json: it is not the directory of a model")
    raise ModelError(f"no tokenizer.json in {source.path}")


def _file_of(source: ModelSource) -> str:
    """The document that the tokenizer is read from."""
    if source.has("tokenizer.json"):
        return "tokenizer.json"
    return "vocab.json" if has_bpe_files(source) else SENTENCEPIECE if source.has(SENTENCEPIECE) else "tokenizer.json"


def _described_in_gguf(source: ModelSource) -> dict[str, Any]:
    described = source.document("tokenizer.json")
    if not described:
        raise ModelError(f"{source.path} has no tokenizer; --tokenizer can name another file or directory")
    return described


def _prepare(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> tokenizers.Tokenizer:
    backend.no_truncation()
    backend.no_padding()
    flagged = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    special = sorted(files.special_texts - flagged)  # to add one again would take its other flags away
    backend.add_special_tokens([text for text in special if backend.token_to_id(text) is not None])
    backend.encode("A first try, so that a broken file fails here.", add_special_tokens=True)
    return backend


def _special_ids(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> frozenset[int]:
    flagged = {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    named = (backend.token_to_id(text) for text in files.special_texts)
    return frozenset(flagged.union(token for token in named if token is not None))
