"""How long an iteration takes that only generates, and how much longer with one more token.

A line through the newest iterations (least squares with exponential forgetting): near their mean it cannot be far off.
Where they all had equally many tokens its slope is the prior's, which is low: proposals are tried, and correct it. The
step budget's model (`engine/budget.py`) is for prompts: it has three terms that move together while rows generate.
"""

from __future__ import annotations

REMEMBERED = 0.95
"""Weight of an observation that is one iteration older."""
PRIOR_WEIGHT = 16.0
"""Of the prior's slope, in tokens squared: as much as one iteration with 5 tokens among many with 1. The time of an
iteration varies for other reasons too, and a slope that is taken for too low costs most in a large batch."""
LEAST_OF_PRIOR = 0.5
"""Least slope, as a part of the prior's."""
PRIOR_TOKENS = 8
"""By the prior an iteration without tokens takes as long as so many tokens."""
MOST_OF_MEAN = 4.0
"""An iteration that took longer than so many of the last ones is counted as these: the machine was elsewhere."""


class GenerationCost:
    """Milliseconds by number of tokens."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._tokens = self._ms = 0.0
        """Means."""
        self._variance = self._covariance = 0.0
        """Of the tokens, and of tokens and milliseconds; sums with weights."""

    def observe(self, tokens: int, ms: float) -> None:
        """Learn from an iteration without prompts."""
        if self._weight > 4:
            ms = min(ms, MOST_OF_MEAN * self._ms)
        before = REMEMBERED * self._weight
        self._weight = before + 1
        far, far_ms = tokens - self._tokens, ms - self._ms
        self._tokens += far / self._weight
        self._ms += far_ms / self._weight
        self._variance = REMEMBERED * self._variance + far * far * before / self._weight
        self._covariance = REMEMBERED * self._covariance + far * far_ms * before / self._weight

    @property
    def token_ms(self) -> float:
        """What one more token adds."""
        prior = self._ms / (self._tokens + PRIOR_TOKENS)
        slope = (self._covariance + PRIOR_WEIGHT * prior) / (self._variance + PRIOR_WEIGHT)
        return max(slope, LEAST_OF_PRIOR * prior)

    def expect(self, tokens: int, token_ms: float) -> float:
        """An iteration of so many tokens; 0 before the first was observed."""
        return max(self._ms + (tokens - self._tokens) * token_ms, 0.0)
