"""The merges of SentencePiece's BPE: its files and GGUF's have only tokens, in order or with scores.

A vocabulary of 262,144 tokens can be cut in a million places, so the parts are looked up by hash, many at once.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from flover.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BASE, _MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9  # odd, so that both can be undone modulo 2^64
_SLOT_BITS = 21
_AT_ONCE = 2**15  # tokens, to bound the memory
_PAIRS_AT_ONCE = 2**16


def merges_by_score(texts: Sequence[str], scores: Sequence[float], added: set[str]) -> list[tuple[str, str]]:
    """The pairs that make each token, those of higher scores first and of equal ones those with the longer left part;
    tokens that texts are cut at beforehand (`added`) have none. `texts` differ. As in `generate_merges` of
    transformers' convert_slow_tokenizer, given scores.

    Raises `ModelError` if two texts have the same hash, which only texts made for it have.
    """
    return _merges(texts, [-score for score in scores], added, longest_first=True)


def merges_by_order(texts: Sequence[str]) -> list[tuple[str, str]]:
    """The same in the order of the tokens, those with the shorter left part first, as `generate_merges` has it without
    scores."""
    return _merges(texts, range(len(texts)), frozenset(), longest_first=False)


def _merges(
    texts: Sequence[str], ranks: Sequence[float], added: Container[str], *, longest_first: bool
) -> list[tuple[str, str]]:
    """The pairs, those of tokens of lower `ranks` first."""
    import numpy as np  # other tokenizers do without

    kept = [index for index, text in enumerate(texts) if text not in added and text]
    if not kept:
        return []
    own = [texts[index] for index in kept]
    lens = np.fromiter(map(len, own), dtype=np.int32, count=len(own))
    table = _Table(_Hashes("".join(own)), lens)
    parts = [table.pairs(first, min(first + _AT_ONCE, len(own))) for first in range(0, len(own), _AT_ONCE)]
    token, left, right = (np.concatenate(part) for part in zip(*parts, strict=True))
    by_token = np.asarray(ranks, dtype=np.float64)[kept]
    sizes = -lens if longest_first else lens
    order = np.lexsort((sizes[right], sizes[left], by_token[token]))  # stable: of equals, the token that comes first
    merges: list[tuple[str, str]] = []
    for first in range(0, len(order), _PAIRS_AT_ONCE):
        some = order[first : first + _PAIRS_AT_ONCE]
        merges += zip(*(map(own.__getitem__, part[some].tolist()) for part in (left, right)), strict=True)
    return merges


class _Hashes:
    """Hashes of any parts of a text: the sum of its characters times powers of `_BASE`, divided by the power at its
    start, modulo 2^64."""

    def __init__(self, text: str) -> None:
        import numpy as np

        characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        characters = (characters + np.uint64(1)) * np.uint64(_MIX)
        characters ^= characters >> np.uint64(29)
        characters *= _powers(_BASE, len(characters))
        self._sums = np.zeros(len(characters) + 1, dtype=np.uint64)
        np.cumsum(characters, out=self._sums[1:])
        self._inverses = _powers(pow(_BASE, -1, 2**64), len(characters) + 1)

    def of(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The hashes of the parts from `starts` to before `ends`."""
        return (self._sums[ends] - self._sums[starts]) * self._inverses[starts]


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    import numpy as np

    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers, out=powers)


class _Table:
    """Finds tokens by their hashes: `lens` are the characters of each, which lie together in the hashed text. Raises
    `ModelError` if two have the same hash."""

    def __init__(self, hashes: _Hashes, lens: NDArray[np.int32]) -> None:
        import numpy as np

        self._of = hashes.of
        self._lens = lens
        self._ends = np.cumsum(lens, dtype=np.int64)
        self._starts = self._ends - lens
        self._hashes = hashes.of(self._starts, self._ends)
        self._order = np.argsort(self._hashes).astype(np.int32)
        self._ranked = self._hashes[self._order]
        if bool((self._ranked[1:] == self._ranked[:-1]).any()):
            raise ModelError("two of its tokens have the same hash")
        slots = self._slot(self._hashes)
        numbers = np.arange(len(lens), dtype=np.int32)
        self._slots = np.zeros(2**_SLOT_BITS, dtype=np.int32)  # a token of each slot: of most there is none or one
        self._slots[slots] = numbers
        self._several = np.zeros(2**_SLOT_BITS, dtype=bool)
        self._several[slots[self._slots[slots] != numbers]] = True

    def pairs(self, first: int, last: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The tokens from `first` to before `last` that two others make, and these two."""
        import numpy as np

        cuts = self._lens[first:last] - 1
        token = np.repeat(np.arange(first, last, dtype=np.int32), cuts)
        cut = np.arange(len(token)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + 1 + self._starts[token]
        left, found = self._find(self._of(self._starts[token], cut))
        token, cut, left = token[found], cut[found], left[found]
        right, found = self._find(self._of(cut, self._ends[token]))
        return token[found], left[found], right[found]

    def _find(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The tokens of these hashes, and which of these are a token's at all."""
        import numpy as np

        slots = self._slot(hashes)
        tokens = self._slots[slots]
        found = self._hashes[tokens] == hashes
        other = np.flatnonzero(~found & self._several[slots])
        places = np.searchsorted(self._ranked, hashes[other]) % len(self._ranked)
        tokens[other] = self._order[places]
        found[other] = self._ranked[places] == hashes[other]
        return tokens, found

    def _slot(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        import numpy as np

        return hashes >> np.uint64(64 - _SLOT_BITS)
