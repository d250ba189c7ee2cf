"""The merges of SentencePiece's BPE: its files and GGUF's have only tokens, in order or with scores."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload


@dataclass(frozen=True, slots=True)
class Merges(Sequence[tuple[str, str]]):
    """Pairs of texts, each made when it is asked for: a list of those of 262,144 tokens takes 20 MB."""

    texts: list[str]
    left: array[int]
    right: array[int]

    def clear(self) -> None:
        """Have none any more, and free their memory."""
        self.texts.clear()
        del self.left[:], self.right[:]

    def __len__(self) -> int:
        return len(self.left)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(*(map(self.texts.__getitem__, side) for side in (self.left, self.right)), strict=True)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, str]]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, str] | list[tuple[str, str]]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        return self.texts[self.left[index]], self.texts[self.right[index]]


def merges_by_score(
    texts: Sequence[str], scores: Sequence[float], added: Collection[str], stand_ins: Collection[str]
) -> Merges:
    """The pairs that make each token, those of higher scores first and of equal ones those with the longer left part;
    tokens that texts are cut at beforehand (`added`) have none. Those of `generate_merges` in transformers'
    convert_slow_tokenizer, given scores, that are ever applied: csrc/merges.h has the reason.

    `texts` differ, `scores` are numbers (no NaN), `stand_ins` the tokens that stand for characters which are no token.
    Raises `ValueError` for texts made to have the same hashes.
    """
    kept = [index for index, text in enumerate(texts) if text not in added and text]
    return _merges([texts[index] for index in kept], [-scores[index] for index in kept], stand_ins, longest_first=True)


def merges_by_order(texts: Sequence[str], stand_ins: Collection[str]) -> Merges:
    """The same in the order of the tokens, those with the shorter left part first, as `generate_merges` has it without
    scores."""
    kept = [text for text in texts if text]
    return _merges(kept, range(len(kept)), stand_ins, longest_first=False)


def _merges(texts: list[str], ranks: Sequence[float], stand_ins: Collection[str], *, longest_first: bool) -> Merges:
    from flover._cpu import make_merges  # a GPU serves without the compiled module

    is_stand_in = re.compile("|".join(map(re.escape, filter(None, stand_ins))) or "(?!)").search
    several = bytes(map(bool, map(is_stand_in, texts)))
    ends = array("q", accumulate(map(len, texts))).tobytes()
    made = make_merges("".join(texts).encode("utf-32-le"), ends, array("d", ranks).tobytes(), several, longest_first)
    left, right = (array("i", side) for side in made)
    return Merges(texts, left, right)
