"""Which requests with a deadline can still make it, from how fast others were served lately.

Under overload first come, first served makes everyone late: the queue grows until its wait is longer than any deadline.
A request that is refused at once costs nothing, can be tried elsewhere, and leaves the device to those that make it.
"""

from __future__ import annotations

from dataclasses import dataclass

from flover.errors import DeadlineError
from flover.server.errors import HttpError

SMOOTHING = 0.1
"""Weight of the newest value in a moving average."""
MIN_ENDED = 8
"""Sequences that must have ended before an estimate refuses a request."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that a request is expected to take."""

    wait: float
    """Until it has a row."""
    service: float
    """From there to its last token."""

    @property
    def seconds(self) -> float:
        """From its arrival to its last token."""
        return self.wait + self.service


@dataclass(frozen=True, slots=True)
class Turns:
    """Where clients take turns: the sequences that one has open, and its share of the rows, 0 to 1."""

    num_open: int
    share: float


class Pace:
    """How fast sequences are served. `rows` is how many the engines run at once; seconds are those of one clock."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._ended = 0
        self._tokens = 0.0
        self._token_seconds = 0.0
        self._between_ends = 0.0
        self._last_end: float | None = None

    def end(self, now: float, *, tokens: int, seconds_generating: float, num_open: int) -> None:
        """A sequence has ended at `now` after `tokens` tokens, `seconds_generating` after its first one. `num_open`
        sequences were open, itself included."""
        self._tokens = self._average(self._tokens, tokens)
        if tokens > 1:
            gap = seconds_generating / (tokens - 1)
            self._token_seconds = self._average(self._token_seconds, gap) if self._token_seconds else gap
        # Only while sequences wait do the times between ends say how fast the queue moves.
        if num_open > self._rows and self._last_end is not None:
            passed = now - self._last_end
            self._between_ends = self._average(self._between_ends, passed) if self._between_ends else passed
        self._last_end = now if num_open > self._rows else None
        self._ended += 1

    def estimate(
        self, *, sequences: int, max_tokens: int | None, num_open: int, turns: Turns | None = None
    ) -> Estimate | None:
        """What a request of so many sequences would take behind `num_open` others; None before enough have ended. With
        `turns` it waits for no more than its client's own, as fast as the client's share of the rows moves."""
        if self._ended < MIN_ENDED:
            return None
        waiting: float = max(0, num_open + sequences - self._rows)
        # A queue that never was full has no measured speed: a row is then free after one sequence's time at most.
        between = self._between_ends or self._tokens * self._token_seconds / self._rows
        length = self._tokens if max_tokens is None else min(max_tokens, self._tokens)
        if turns is not None:
            waiting = min(waiting, max(0, turns.num_open + sequences - self._rows * turns.share) / turns.share)
        return Estimate(waiting * between, length * self._token_seconds)

    def check(
        self,
        deadline_ms: int | None,
        sequences: int,
        max_tokens: int | None,
        num_open: int,
        turns: Turns | None = None,
    ) -> None:
        """Refuse a request that is expected to miss its deadline (as `estimate`), with a 429 that says when to try
        again."""
        if deadline_ms is None:
            return
        estimate = self.estimate(sequences=sequences, max_tokens=max_tokens, num_open=num_open, turns=turns)
        if estimate is None or 1000 * estimate.seconds <= deadline_ms:
            return
        raise HttpError(
            429,
            f"deadline_ms {deadline_ms} cannot be kept: with {num_open} sequences open, about "
            f"{1000 * estimate.seconds:.0f} ms are needed, {1000 * estimate.wait:.0f} of them to wait",
            param="deadline_ms",
            code="deadline_exceeded",
            retry_after=max(1.0, estimate.seconds - deadline_ms / 1000),
        )

    def _average(self, before: float, newest: float) -> float:
        # The mean of the first few, then the moving average.
        weight = max(SMOOTHING, 1 / (self._ended + 1))
        return before + weight * (newest - before)


def missed(deadline_ms: int) -> DeadlineError:
    """What ends a request whose deadline has passed."""
    return DeadlineError(f"deadline_ms {deadline_ms} has passed before the answer was complete")
