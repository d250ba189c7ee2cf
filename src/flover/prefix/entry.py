"""What is known of one full page: its tokens, what comes before them, and where its keys and values are."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from hashlib import blake2b

DIGEST_BYTES = 16


@dataclass(slots=True, eq=False)
class Entry:
    """A published page, or the root of a salt: it has no parent, and is nowhere."""

    digest: bytes
    parent: Entry | None
    token_ids: tuple[int, ...]
    page: int | None = None
    """Where it is in the pool."""
    slot: int | None = None
    """Where it is in the host tier."""

    def follows(self, parent: Entry, token_ids: tuple[int, ...]) -> bool:
        """Whether it stands for exactly these tokens after exactly this parent."""
        found = self.parent
        if found is None:
            return False
        same_root = found.parent is None and parent.parent is None and found.digest == parent.digest
        return (found is parent or same_root) and self.token_ids == token_ids


def digest_tokens(parent: bytes, token_ids: tuple[int, ...]) -> bytes:
    """Digest of a page's tokens after its parent's."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=DIGEST_BYTES).digest()


def root_of(salt: str) -> Entry:
    """The root of a salt."""
    return Entry(blake2b(salt.encode(), digest_size=DIGEST_BYTES).digest(), None, ())
