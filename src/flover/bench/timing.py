"""Timing by the best of many passes, to exclude other load on the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Call = Callable[[], object]
Clock = Callable[[], float]
Named = tuple[str, Call]


def best_means(calls: Sequence[Named], seconds: float, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Make all calls, pass after pass, for `seconds` and at least once.

    Returns for each name the mean call of the best pass. In a pass over more weights than the caches hold, each is read
    from memory, as in a decoder's step.
    """
    counts: dict[str, int] = {}
    for name, _ in calls:
        counts[name] = counts.get(name, 0) + 1
    best = dict.fromkeys(counts, float("inf"))
    deadline, passes = clock() + seconds, 0
    while passes == 0 or clock() < deadline:
        spent = dict.fromkeys(counts, 0.0)
        for name, call in calls:
            began = clock()
            call()
            spent[name] += clock() - began
        best = {name: min(best[name], spent[name] / counts[name]) for name in best}
        passes += 1
    return best


def best_mean(call: Callable[[], object], seconds: float, repeat: int = 1) -> float:
    """The same for one call, `repeat` times a pass."""
    return best_means([("", call)] * repeat, seconds)[""]


def keeping(owners: object, call: Call) -> Call:
    """`call` with references to `owners`, the tensors behind the addresses that it uses."""

    def kept(owners: object = owners) -> object:
        return call()

    return kept
