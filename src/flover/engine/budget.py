"""The step budget: how many prompt tokens may join an iteration so that nobody who generates waits too long.

The duration of an iteration is modelled as a + b·tokens + c·attention, where attention is the sum over tokens of
the context each one reads. The coefficients are learnt while running by recursive least squares with exponential
forgetting (Haykin, *Adaptive Filter Theory*, ch. 10), so they follow the machine and the region of work it is in.
Two cautions make the model safe to steer by: predictions carry a margin, the spread of recent iterations around
what was expected of them, and an iteration never has more than twice the tokens of the largest one seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

FORGETTING = 0.97
"""Weight of an observation that is one iteration older."""
FIRST_TOKENS = 64
"""Tokens of the first iterations, before anything is known."""
LEAST_CHUNK = 16
"""Prompt tokens that join an iteration however long it gets: prompts always advance."""
AIM = 0.9
"""Share of the target that is planned for, the margin included."""
STRETCH = 1.25
"""When generation alone takes about as long as the target, prompts may stretch an iteration by this factor."""
SPREAD_WINDOW = 32
"""Iterations whose spread makes the margin."""
SPREAD_QUANTILE = 0.95
"""Share of them that took no longer than expected times the margin."""
MOST_MARGIN = 3.0
"""One stall of the machine shall not starve prompts for a whole window."""
IDLE_FACTOR = 4.0
"""With nobody generating an iteration may last this many targets: newcomers and cancellations wait for its end."""

_SCALES = (1.0, 64.0, 65536.0)


class CostModel:
    """Learns the duration of iterations, in milliseconds."""

    def __init__(self) -> None:
        self._theta = [0.0, 0.0, 0.0]
        self._covariance = [[1e4 if row == column else 0.0 for column in range(3)] for row in range(3)]
        self._spread: deque[float] = deque(maxlen=SPREAD_WINDOW)
        self._margin = 1.0
        self.largest = FIRST_TOKENS // 2
        self.observations = 0

    def observe(self, tokens: int, attention: int, milliseconds: float) -> None:
        """Learn from an iteration that computed `tokens` and took so long."""
        if self.observations >= 3:
            self._spread.append(milliseconds / max(self._mean(tokens, attention), 1e-6))
            in_order = sorted(self._spread)
            self._margin = min(max(in_order[int(SPREAD_QUANTILE * len(in_order))], 1.0), MOST_MARGIN)
        self._update(_features(tokens, attention), milliseconds)
        self.largest = max(self.largest, tokens)
        self.observations += 1

    def predict(self, tokens: int, attention: int) -> float:
        """Milliseconds that an iteration will take, with the margin. Never falls when the work grows."""
        return self._margin * self._mean(tokens, attention)

    def _mean(self, tokens: int, attention: int) -> float:
        return sum(max(weight, 0.0) * x for weight, x in zip(self._theta, _features(tokens, attention), strict=True))

    def _update(self, x: list[float], y: float) -> None:
        spread = [sum(a * b for a, b in zip(row, x, strict=True)) for row in self._covariance]
        norm = FORGETTING + sum(a * b for a, b in zip(x, spread, strict=True))
        gain = [value / norm for value in spread]
        error = y - sum(a * b for a, b in zip(self._theta, x, strict=True))
        self._theta = [weight + g * error for weight, g in zip(self._theta, gain, strict=True)]
        for i in range(3):
            for j in range(3):
                grown = (self._covariance[i][j] - gain[i] * spread[j]) / FORGETTING
                # Directions that are not excited would grow without bound under forgetting.
                self._covariance[i][j] = max(min(grown, 1e6), -1e6)


def _features(tokens: int, attention: int) -> list[float]:
    return [value / scale for value, scale in zip((1.0, tokens, attention), _SCALES, strict=True)]


def chunk_attention(start: int, count: int) -> int:
    """Context read by `count` tokens from position `start` on, summed."""
    return count * start + count * (count + 1) // 2


@dataclass(slots=True)
class Allowance:
    """What prompts may still add to the iteration being planned. `target_ms` 0 means no limit in time."""

    model: CostModel
    target_ms: float
    tokens_left: int
    """Tokens left under the hard cap."""
    tokens: int
    """Tokens planned so far: the generating rows, then the chunks."""
    attention: int
    limit_ms: float = 0.0
    joined: int = 0
    """Prompt tokens planned so far."""

    def __post_init__(self) -> None:
        alone = self.model.predict(self.tokens, self.attention)
        self.limit_ms = max(AIM * self.target_ms, STRETCH * alone) if self.tokens else IDLE_FACTOR * self.target_ms

    def afford(self, start: int, pending: int) -> int:
        """How many of `pending` tokens from position `start` on may join."""
        most = min(pending, self.tokens_left)
        if most <= 0 or self.target_ms == 0:
            return max(most, 0)
        least = 0 if self.joined else min(LEAST_CHUNK, most)
        most = min(most, max(least, 2 * self.model.largest - self.tokens))
        low, high = least, most
        while low < high:
            middle = (low + high + 1) // 2
            if self._cost(start, middle) <= self.limit_ms:
                low = middle
            else:
                high = middle - 1
        return low

    def spend(self, start: int, count: int) -> None:
        """A chunk of `count` tokens has joined."""
        self.tokens_left -= count
        self.tokens += count
        self.joined += count
        self.attention += chunk_attention(start, count)

    def _cost(self, start: int, count: int) -> float:
        return self.model.predict(self.tokens + count, self.attention + chunk_attention(start, count))
