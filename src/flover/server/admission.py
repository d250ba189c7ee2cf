"""Limits the number of open requests and sequences, before any work on a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flover.config import ServerConfig
from flover.errors import RequestError
from flover.request import SamplingParams
from flover.server.errors import HttpError

MAX_SHARED_IDS = 2**20
"""Token ids of `bad_words`, or of `allowed_token_ids`, times the prompts of one HTTP request."""


@dataclass(frozen=True, slots=True)
class RequestSize:
    """The prompts and sequences of one HTTP request."""

    prompts: int
    sequences: int


class AdmissionControl:
    """Counts open requests and sequences. Used in one event loop."""

    def __init__(self, config: ServerConfig, on_rejected: Callable[[], None]) -> None:
        """`on_rejected` is called for each request that gets a 429."""
        self.idle = asyncio.Event()
        """Set while no request is open."""
        self.idle.set()
        self._config = config
        self._on_rejected = on_rejected
        self._prompts = 0
        self._sequences = 0

    @contextmanager
    def enter(self, size: RequestSize) -> Iterator[Callable[[], None]]:
        """Count a request as open until the end of the block, or until `leave` if the yielded function was called.

        Raises `RequestError` for a request that could never be admitted, and a 429 for one that cannot be now.
        """
        self._check(size)
        self._change(size, 1)
        kept: list[bool] = []
        try:
            yield lambda: kept.append(True)
        finally:
            if not kept:
                self.leave(size)

    @property
    def num_open(self) -> int:
        """Sequences of all open requests."""
        return self._sequences

    def leave(self, size: RequestSize) -> None:
        """Count a request as closed."""
        self._change(size, -1)

    def _check(self, size: RequestSize) -> None:
        most, limits = self._config.max_num_queued_reqs, self._config.limits
        if size.prompts > most:
            raise RequestError(
                f"{size.prompts} prompts are more than may be open at once (--max-num-queued-reqs {most})",
                param="prompt",
            )
        if size.sequences > limits.max_request_seqs:
            raise RequestError(
                f"n: {size.prompts} prompts with n = {size.sequences // size.prompts} make {size.sequences} sequences; "
                f"one request may have at most {limits.max_request_seqs} (--max-request-seqs)",
                param="n" if size.sequences > size.prompts else "prompt",
            )
        if self._prompts + size.prompts > most:
            self._reject(
                f"{self._prompts} requests are open and {size.prompts} more would exceed", "--max-num-queued-reqs", most
            )
        if self._sequences + size.sequences > limits.max_open_seqs:
            open_ = f"{self._sequences} sequences are open and {size.sequences} more would exceed"
            self._reject(open_, "--max-open-seqs", limits.max_open_seqs)

    def _reject(self, reason: str, flag: str, most: int) -> None:
        self._on_rejected()
        raise HttpError(429, f"{reason} {flag} ({most})", code="rate_limit_exceeded")

    def _change(self, size: RequestSize, sign: int) -> None:
        self._prompts += sign * size.prompts
        self._sequences += sign * size.sequences
        (self.idle.clear if self._prompts else self.idle.set)()


def check_shared_ids(params: SamplingParams, banned: list[list[int]], count: int) -> None:
    """Refuse lists of token ids that are too large to send to the engine with every prompt."""
    sizes = {"bad_words": sum(map(len, banned)), "allowed_token_ids": len(params.allowed_token_ids or ())}
    for name, size in sizes.items():
        if count > 1 and size * count > MAX_SHARED_IDS:
            raise RequestError(
                f"{name} come to {size} token ids for each of {count} prompts, at most {MAX_SHARED_IDS} in all are "
                "allowed: send fewer prompts at once",
                param=name,
            )
