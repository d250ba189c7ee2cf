"""Which of several replicas gets a request: the one that has computed the longest prefix of its prompt, unless it is
much busier than the others. Pure: no clock, no engine, no network."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

BLOCK = 32
MOST_APART = 8
MOST_BLOCKS = 128
"""Blocks of one prompt that are looked at: what comes after them seldom differs."""
MOST_ENTRIES = 2**16
"""Prefixes that are remembered; those that were sent least recently are forgotten first."""
_DIGEST_BYTES = 8
_ID_BYTES = 8


class PrefixRouter:
    """Prefix affinity with balance bounds, for `num_replicas` replicas numbered from 0. Not thread-safe.

    A prompt is cut into blocks of `block` token ids, or of `block` bytes of text; only whole blocks count. A replica
    that has more than `most_apart` open requests more than the least busy one gets nothing for its cache's sake.
    What the caches really hold is not asked: a prefix counts as known to every replica that it was sent to.
    """

    def __init__(self, num_replicas: int, *, block: int = BLOCK, most_apart: int = MOST_APART) -> None:
        if num_replicas < 1 or block < 1 or most_apart < 0:
            raise ValueError(f"{num_replicas} replicas, blocks of {block}, {most_apart} apart")
        self._num_replicas = num_replicas
        self._block = block
        self._most_apart = most_apart
        self._known: OrderedDict[bytes, int] = OrderedDict()  # digest of a prefix -> its replicas, a bit for each

    def choose(self, prompt: Sequence[int] | bytes | str, open_requests: Sequence[int | None]) -> int:
        """The replica for this prompt, which counts as sent to it. `open_requests[i]` is None when replica i cannot
        take anything. Ties go to the replica with the fewest open requests, then to the lowest number.

        Raises `LookupError` if no replica can take it.
        """
        if len(open_requests) != self._num_replicas:
            raise ValueError(f"{len(open_requests)} numbers of open requests for {self._num_replicas} replicas")
        able = [count for count in open_requests if count is not None]
        if not able:
            raise LookupError(f"none of {self._num_replicas} replicas takes requests")
        if self._num_replicas == 1:
            return 0
        most = min(able) + self._most_apart
        near = {index: count for index, count in enumerate(open_requests) if count is not None and count <= most}
        digests = self._digests(prompt)
        chosen = min(self._best(digests, near), key=lambda index: (near[index], index))
        self._remember(digests, chosen)
        return chosen

    def forget(self, replica: int) -> None:
        """Its cache is gone."""
        kept = ~(1 << replica)
        for digest in list(self._known):
            left = self._known[digest] & kept
            if left:
                self._known[digest] = left
            else:
                del self._known[digest]

    def _digests(self, prompt: Sequence[int] | bytes | str) -> list[bytes]:
        """One for each prefix of whole blocks, the shortest first."""
        most = self._block * MOST_BLOCKS
        if isinstance(prompt, str):
            data, step = prompt[:most].encode("utf-8", "surrogatepass")[:most], self._block
        elif isinstance(prompt, bytes):
            data, step = prompt[:most], self._block
        else:
            data, step = array("q", prompt[:most]).tobytes(), self._block * _ID_BYTES
        digests, parent = [], b""
        for start in range(0, len(data) - step + 1, step):
            parent = hashlib.blake2b(parent + data[start : start + step], digest_size=_DIGEST_BYTES).digest()
            digests.append(parent)
        return digests

    def _best(self, digests: Sequence[bytes], near: Mapping[int, int]) -> Iterable[int]:
        """Those of `near` that were sent the longest prefix; all of them if none was sent any."""
        best, still = 0, sum(1 << index for index in near)
        for digest in digests:
            still &= self._known.get(digest, 0)
            if not still:
                break
            best = still
        return list(_bits(best)) or near

    def _remember(self, digests: Sequence[bytes], replica: int) -> None:
        # The longest first: as the oldest of a prompt it goes first, and a prefix outlives its continuations.
        for digest in reversed(digests):
            self._known[digest] = self._known.get(digest, 0) | 1 << replica
            self._known.move_to_end(digest)
        while len(self._known) > MOST_ENTRIES:
            self._known.popitem(last=False)


def _bits(mask: int) -> Iterator[int]:
    """The positions of the ones, the lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
