"""How requests share the model: fusion, and the strategies that the Flover paper compares it with. Pure.

A strategy other than fusion works in batches: a batch is chosen when no sequence runs, all of it enters, and no other
sequence before it has ended. That is how a server without temporal fusion works, with the model and the kernels of this
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Items
from enum import StrEnum

from flover.engine.sequence import Sequence


class Strategy(StrEnum):
    """Which waiting sequences may enter, and when."""

    FUSION = "fusion"
    """The first in the queue, in any iteration."""
    SERIAL = "serial"
    """One request at a time."""
    STATIC = "static"
    """All that wait, together; they leave together."""
    DYNAMIC_BATCHING = "dynamic-batching"
    """As static, but a batch waits for company until its window has passed or it is full."""

    @property
    def holds_rows(self) -> bool:
        """Whether the row of a finished sequence is computed until the longest of its batch is done."""
        return self in (Strategy.STATIC, Strategy.DYNAMIC_BATCHING)


def opens_at(strategy: Strategy, waiting: Items[Sequence], max_num_seqs: int, window: float) -> float:
    """When the next batch may be chosen, on the clock of `Sequence.arrived`; infinity if none waits."""
    if not waiting:
        return math.inf
    if strategy is not Strategy.DYNAMIC_BATCHING or len(waiting) >= max_num_seqs:
        return -math.inf
    return min(sequence.arrived for sequence in waiting) + window


def choose_batch(strategy: Strategy, waiting: Items[Sequence], max_num_seqs: int) -> list[Sequence]:
    """Which sequences enter together, in the order of service, when none runs. A request's sequences count one by
    one."""
    if strategy is Strategy.SERIAL:
        return [sequence for sequence in waiting if sequence.request is waiting[0].request]
    return list(waiting[:max_num_seqs])
