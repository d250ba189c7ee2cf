"""The documents that formats are scored on, as token ids; random ids for a model without text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flover.errors import ConfigError
from flover.text.tokenizer import Tokenizer
from flover_benchmarks.options import AccuracyOptions

HELD_OUT = "heldout.txt"
"""A model's held-out text. A line with only its end-of-text token separates documents."""

SCORE_BYTES = 2**29
"""Memory for the reference's float32 logits, which bounds the number of tokens by default."""

RANDOM_TOKENS = 1024
RANDOM_LEN = 256
_SEED = 0


@dataclass(frozen=True, slots=True)
class Documents:
    """Token ids by document, their source, and whether they are text."""

    ids: list[list[int]]
    source: str
    is_text: bool

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.ids))


def find_documents(path: Path, options: AccuracyOptions, vocab_size: int, max_len: int, dummy: bool) -> Documents:
    """The text of the options, else the model's held-out text; random ids if there is none or the weights are random.
    Raises `ConfigError` for a file that cannot be read or is empty."""
    length = min(options.context_len, max_len)
    if length < 2:
        raise ConfigError(f"--context-len must be at least 2, got {length}")
    most = options.max_tokens or SCORE_BYTES // (4 * vocab_size)
    held_out = path / HELD_OUT
    if options.text is None and (dummy or not held_out.is_file()):
        return random_documents(vocab_size, options.max_tokens or RANDOM_TOKENS, min(length, RANDOM_LEN))
    file = held_out if options.text is None else Path(options.text)
    tokenizer = Tokenizer.load(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--text: cannot read {file}: {error}") from error
    ids = list(_first(_pieces(tokenizer, text, length), most))
    if not ids:
        raise ConfigError(f"--text: there is no text in {file}, or --max-tokens is below 2")
    return Documents(ids, f"its {HELD_OUT}" if options.text is None else str(file), True)


def random_documents(vocab_size: int, num_tokens: int, length: int) -> Documents:
    """Random ids, always the same."""
    generator = np.random.default_rng(_SEED)
    lens = [length] * (num_tokens // length) or [num_tokens]
    ids = [generator.integers(vocab_size, size=size).tolist() for size in lens]
    return Documents(ids, "random token ids", False)


def split_documents(text: str, separator: str | None) -> list[str]:
    """The documents of a file, without its last newline."""
    text = text.removesuffix("\n")
    parts = [text] if separator is None else text.split(f"\n{separator}\n")
    return [part for part in parts if part]


def _pieces(tokenizer: Tokenizer, text: str, length: int) -> Iterator[list[int]]:
    """Every document with its begin and end tokens, in pieces of at most `length`: each but the first starts
    with the last token of the previous one, so that every token is scored once."""
    end = None if tokenizer.eos_id is None else tokenizer.token_name(tokenizer.eos_id)
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    last = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for document in split_documents(text, end):
        ids = [*first, *tokenizer.encode(document, add_special_tokens=False), *last]
        yield from (ids[start : start + length] for start in range(0, max(1, len(ids) - 1), length - 1))


def _first(documents: Iterable[list[int]], most: int) -> Iterator[list[int]]:
    """Documents of at least two tokens up to `most` tokens in all, the last one cut."""
    left = most
    for ids in documents:
        kept = ids[:left]
        if len(kept) >= 2:
            left -= len(kept)
            yield kept
