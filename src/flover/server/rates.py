"""Requests and tokens a minute, for each API key: token buckets that hold one minute's worth.

A request costs what is known when it is known: one request at the door, its prompt's tokens when they are counted, the
generated ones when it has ended. The bucket of tokens may so fall below zero, and a key then waits until it is above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from flover.config import KeyLimits
from flover.server.deadlines import Turns
from flover.server.errors import HttpError
from flover.server.http_keys import key_salts

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit in a minute, what is left of it, and the seconds until all of it is."""

    limit: int
    remaining: int
    reset: float


class Bucket:
    """Fills evenly with `per_minute`, up to as much."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._level = float(per_minute)
        self._at = -math.inf

    def wait(self, now: float, amount: float) -> float:
        """Seconds from `now` until `amount` is there; 0 if it is."""
        self._level = min(float(self._per_minute), self._level + (now - self._at) / MINUTE * self._per_minute)
        self._at = now
        return max(0.0, amount - self._level) / self._per_minute * MINUTE

    def rate(self, now: float) -> Rate:
        """What is in it."""
        reset = self.wait(now, self._per_minute)
        return Rate(self._per_minute, max(0, math.floor(self._level)), reset)

    def take(self, amount: float) -> None:
        """Take it, whether it is there or not."""
        self._level -= amount


class Account:
    """What one API key may use and has used."""

    def __init__(self, limits: KeyLimits) -> None:
        self.weight = limits.weight
        self.num_open = 0
        """Sequences of its requests that are open."""
        self._limits = limits
        self._requests = Bucket(limits.requests_per_minute) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self.has_rates = limits.has_rates

    def rates(self, now: float) -> dict[str, Rate]:
        """What it may still use, of requests and of tokens, where it has a limit."""
        buckets = {"requests": self._requests, "tokens": self._tokens}
        return {kind: bucket.rate(now) for kind, bucket in buckets.items() if bucket is not None}

    def request(self, now: float) -> None:
        """Count a request at the door. Raises a 429 that says when there is room for it."""
        if self._requests is not None and (wait := self._requests.wait(now, 1)):
            raise _refused("requests", self._limits.requests_per_minute, wait)
        if self._tokens is not None and (wait := self._tokens.wait(now, 1)):
            raise _refused("tokens", self._limits.tokens_per_minute, wait)
        if self._requests is not None:
            self._requests.take(1)

    def turns_among(self, others: Iterable[Account]) -> Turns:
        """How it takes turns with those that have open requests."""
        active = sum(one.weight for one in others if one.num_open and one is not self)
        return Turns(self.num_open, self.weight / (self.weight + active))

    def opened(self, sequences: int, tokens: int) -> None:
        """So many sequences more are open, or fewer; count tokens of their request, which was let in."""
        self.num_open += sequences
        self.tokens(tokens)

    def tokens(self, count: int) -> None:
        """Count tokens of a request that was let in."""
        if self._tokens is not None:
            self._tokens.take(count)


def accounts(keys: Sequence[str], limits: Sequence[KeyLimits]) -> Mapping[str, Account]:
    """The account of each key, by the salt of the key; one without limits for a server without keys."""
    of_key = {one.key: one for one in limits}
    return {salt: Account(of_key.get(key) or KeyLimits(key=key)) for key, salt in key_salts(keys or [""]).items()}


def _refused(kind: str, most: int | None, wait: float) -> HttpError:
    message = f"this API key has used its {most} {kind} a minute ({kind}_per_minute of --api-key-file)"
    return HttpError(429, message, code="rate_limit_exceeded", retry_after=wait)
