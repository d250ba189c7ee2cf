"""The size of the key/value pool, in pages. Arithmetic only: the machine's memory is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from flover.errors import ConfigError

NUM_NULL_PAGES = 1
"""Page 0 belongs to no sequence (`engine/plan.py`, NULL_PAGE) and counts as part of the pool."""


@dataclass(frozen=True, slots=True)
class PoolSize:
    """`num_pages` pages of `page_size` tokens and `page_bytes` bytes each, the null page included."""

    num_pages: int
    page_size: int
    page_bytes: int

    @property
    def pool_tokens(self) -> int:
        """Tokens that sequences can have in the pool at once."""
        return (self.num_pages - NUM_NULL_PAGES) * self.page_size

    @property
    def total_bytes(self) -> int:
        return self.num_pages * self.page_bytes


def num_pages_for(num_tokens: int, page_size: int) -> int:
    """Pages that one sequence of `num_tokens` tokens needs."""
    return -(-num_tokens // page_size)


def size_pool(
    *,
    page_bytes: int,
    page_size: int,
    max_num_seqs: int,
    max_model_len: int,
    available_bytes: int,
    asked_bytes: int | None = None,
    share: float = 0.5,
) -> PoolSize:
    """The pool of `asked_bytes`, or by default for `max_num_seqs` sequences of `max_model_len` tokens, but at most
    `share` of the available memory.

    A pool too small for `max_model_len` is allowed: requests that do not fit are refused. Raises `ConfigError` if the
    null page and one more do not fit, or if `asked_bytes` exceed the available memory.
    """
    if asked_bytes is not None:
        num_pages = asked_bytes // page_bytes
        if asked_bytes > available_bytes:
            raise ConfigError(
                f"--kv-cache-memory-bytes asks for {_mib(asked_bytes)}, but only {_mib(available_bytes)} of memory "
                "are available after loading the weights"
            )
    else:
        wanted = max_num_seqs * num_pages_for(max_model_len, page_size) + NUM_NULL_PAGES
        num_pages = min(wanted, int(share * available_bytes) // page_bytes)
    least = NUM_NULL_PAGES + 1
    if num_pages < least:
        source = (
            f"--kv-cache-memory-bytes {asked_bytes}"
            if asked_bytes is not None
            else f"{'half of the' if share == 0.5 else 'the'} available memory ({_mib(int(share * available_bytes))})"
        )
        raise ConfigError(
            f"{source} holds {num_pages} pages of {page_bytes} bytes (--block-size {page_size}), but at least {least} "
            f"are needed: set --kv-cache-memory-bytes to {least * page_bytes} or more, or lower --block-size"
        )
    return PoolSize(num_pages=num_pages, page_size=page_size, page_bytes=page_bytes)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
