"""The step budget: how many prompt tokens may join an iteration so that no generating row waits too long.

The duration of an iteration is modelled as a·weights + b·tokens + c·attention, where weights is the share of all
that is read, 1 but for models with experts, and attention the sum over tokens of the context each one reads. The
coefficients are learnt while running by recursive least squares with exponential forgetting (Haykin, *Adaptive Filter
Theory*, ch. 10), so they follow the machine and the region of work it is in.
Two cautions make the model safe to steer by: predictions carry a margin, the spread of recent iterations around
what was expected of them, and an iteration never has more than twice the tokens of the largest one seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from flover.engine.plan import StepPlan
from flover.request import ExpertReads

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
SHARED_PART = 8.0
"""While clients compete, an iteration may last the target divided by this: a request that comes waits for the one that
runs. Or `SHARED_FACTOR` times as long as reading the weights, if that is longer: prompts lose a tenth of their pace."""
SHARED_FACTOR = 10.0
IDLE_FACTOR = 4.0
"""Without a generating row an iteration may last this many targets, where one client alone waits for its end."""

_Vector = tuple[float, float, float]
"""Of the three terms."""


class CostModel:
    """Learns the duration of iterations, in milliseconds."""

    def __init__(self, experts: ExpertReads) -> None:
        self._experts = experts
        self._theta: _Vector = (0.0, 0.0, 0.0)
        self._covariance = (1e4, 0.0, 0.0), (0.0, 1e4, 0.0), (0.0, 0.0, 1e4)
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
        self._update(self._features(tokens, attention), milliseconds)
        self.largest = max(self.largest, tokens)
        self.observations += 1

    def predict(self, tokens: int, attention: int) -> float:
        """Milliseconds that an iteration will take, with the margin. Never falls when the work grows."""
        return self._margin * self._mean(tokens, attention)

    def _mean(self, tokens: int, attention: int) -> float:
        a, b, c = self._theta
        return _dot((max(a, 0.0), max(b, 0.0), max(c, 0.0)), self._features(tokens, attention))

    def _features(self, tokens: int, attention: int) -> _Vector:
        return self._experts.share(tokens), tokens / 64.0, attention / 65536.0

    def _update(self, x: _Vector, y: float) -> None:
        first, second, third = self._covariance
        spread = (_dot(first, x), _dot(second, x), _dot(third, x))
        norm = FORGETTING + _dot(x, spread)
        gains = [value / norm for value in spread]
        error = y - _dot(self._theta, x)
        a, b, c = (weight + gain * error for weight, gain in zip(self._theta, gains, strict=True))
        self._theta = a, b, c
        p, q, r = spread
        first, second, third = (
            (_forget(i - gain * p), _forget(j - gain * q), _forget(k - gain * r))
            for (i, j, k), gain in zip(self._covariance, gains, strict=True)
        )
        self._covariance = first, second, third


def _dot(a: _Vector, b: _Vector) -> float:
    """Written out: every iteration learns, and at one row of a small model a loop is felt."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _forget(covariance: float) -> float:
    """Bounded: directions that are not excited would grow for ever."""
    return max(min(covariance / FORGETTING, 1e6), -1e6)


def chunk_attention(start: int, count: int) -> int:
    """Context read by `count` tokens from position `start` on, summed."""
    return count * start + count * (count + 1) // 2


def attention_of(plan: StepPlan) -> int:
    """Context read by the tokens of a plan, summed."""
    return sum(chunk_attention(work.start, work.num_tokens) for work in plan.work)


@dataclass(slots=True)
class Allowance:
    """What prompts may still add to the iteration being planned. `target_ms` 0 means no limit in time."""

    model: CostModel
    target_ms: float
    tokens_left: int  # under the hard cap
    tokens: int  # planned so far: the generating rows, then the chunks
    attention: int
    turns: bool = False  # whether clients take turns
    shared: bool = False  # whether several have competed lately
    limit_ms: float = 0.0
    joined: int = 0  # prompt tokens planned so far
    ends: tuple[str, int] | None = None
    """The first prompt that ends in this iteration: its client, and the tokens that were left of it."""

    def __post_init__(self) -> None:
        alone = self.model.predict(self.tokens, self.attention)
        aim = AIM * self.target_ms
        if self.shared:
            aim = min(aim, max(self.target_ms / SHARED_PART, SHARED_FACTOR * self.model.predict(1, 0)))
        limit = max(aim, STRETCH * alone)
        self.limit_ms = limit if self.tokens or self.turns else IDLE_FACTOR * self.target_ms

    def afford(self, start: int, pending: int, client: str | None = None) -> int:
        """How many of `pending` tokens from position `start` on may join. A prompt of another client that is longer
        than the one that ends may only stretch the iteration: a first token does not wait for it."""
        most = min(pending, self.tokens_left)
        if most <= 0 or self.target_ms == 0:
            return max(most, 0)
        least = 0 if self.joined else min(LEAST_CHUNK, most)
        most = min(most, max(least, 2 * self.model.largest - self.tokens))
        low, high, limit = least, most, self.limit_ms
        if self.ends is not None and client not in (None, self.ends[0]) and pending > self.ends[1]:
            limit = min(limit, STRETCH * self._cost(start, 0))
        while low < high:
            middle = (low + high + 1) // 2
            if self._cost(start, middle) <= limit:
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
