"""Between the arrival of deltas and their reader: one mailbox per stream, of bounded size.

Knows deltas and asyncio; nothing of sockets and processes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from flover.errors import EngineError, FloverError
from flover.request import Delta

MAX_WAITING_NUMBERS = 2**18
"""Most numbers (token ids, log-probabilities) that may wait for a reader; a mailbox that holds more is given up."""


class SlowReaderError(EngineError):
    """The reader of a stream was so slow that its deltas were dropped."""


class Mailbox:
    """Deltas of a few requests on their way to one reader. `sequences`: request id to its number of sequences."""

    def __init__(self, sequences: Mapping[str, int]) -> None:
        self._left = dict(sequences)
        self._waiting: deque[Delta] = deque()
        self._numbers = 0
        self._failure: FloverError | None = None
        self._failed = False
        self._arrived = asyncio.Event()
        self.overflowed = False

    @property
    def unfinished(self) -> list[str]:
        """Requests that still have sequences under way."""
        return [request_id for request_id, left in self._left.items() if left > 0]

    def has_ended(self, request_id: str) -> bool:
        """Whether every sequence of this request has ended."""
        return self._left[request_id] <= 0

    def put(self, delta: Delta) -> None:
        """Add a delta; sets `overflowed`, and fails the stream, when too much waits for the reader."""
        if self._failed:
            return
        if delta.finish_reason is not None:
            self._left[delta.request_id] -= 1
        numbers = _numbers(delta)
        if self._waiting and self._numbers + numbers > MAX_WAITING_NUMBERS:
            self.overflowed = True
            self._waiting.clear()
            self.fail(SlowReaderError(f"the reader left more than {MAX_WAITING_NUMBERS} numbers waiting"))
            return
        self._numbers += numbers
        self._waiting.append(delta)
        self._arrived.set()

    def fail(self, error: FloverError) -> None:
        """End the stream with an error after what already waits. Only the first call counts."""
        if not self._failed:
            self._failure, self._failed = error, True
            self._arrived.set()

    async def get(self) -> Delta | None:
        """The next delta; None when all have come. Raises what `fail` was given, exactly once."""
        while not self._waiting:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._failed or not self.unfinished:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        delta = self._waiting.popleft()
        self._numbers -= _numbers(delta)
        return delta


class DeltaStream:
    """Async iterator over the deltas of a few requests, for one reader. Ends after each sequence's last delta."""

    def __init__(self, mailbox: Mailbox, abandon: Callable[[Mailbox], None]) -> None:
        self._mailbox = mailbox
        self._abandon = abandon
        self._closed = False

    def __aiter__(self) -> DeltaStream:
        return self

    async def __anext__(self) -> Delta:
        delta = None if self._closed else await self._mailbox.get()
        if delta is None:
            raise StopAsyncIteration
        return delta

    def abort(self, error: FloverError) -> None:
        """Cancel what is under way in the engine; the reader gets what has come, then `error`."""
        self._mailbox.fail(error)
        self._abandon(self._mailbox)

    def close(self) -> None:
        """Read no more; sequences under way are cancelled in the engine. May be called twice."""
        if not self._closed:
            self._closed = True
            self._abandon(self._mailbox)


def _numbers(delta: Delta) -> int:
    """The size of a delta, roughly in proportion to the memory that it takes."""
    entries = [*(delta.logprobs or ()), *(delta.prompt_logprobs or ())]
    return 1 + len(delta.token_ids) + sum(3 * len(entry.token_ids) for entry in entries if entry is not None)
