"""A live feed whose picture is known: eight iterations in which everything happens once.

step      0  1  2  3  4  5  6  7
row 0     a  A  A  A| C  C  C  C|     a stops after 3, c moves from row 2 into the hole and stops after 7
row 1     b  b  B  B  Bx .  b  Bx     b is preempted after 4, comes back at 6 and is cancelled after 7
row 2           c  C
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from flover.engine.plan import Move
from flover.engine.stats import EngineStats
from flover.observe.timeline import DEAD, Iteration

FACTS = {"model": "toy", "max_num_seqs": 8, "pages_total": 100, "page_size": 16}


def iteration(step: int, rows: list[int], **fields: Any) -> Iteration:
    """One iteration of 8 ms, a hundredth of a second after the one before; what is not given is nothing."""
    plain: dict[str, Any] = {
        "started": step / 100,
        "milliseconds": 8.0,
        "first": 0,
        "generating": [],
        "chunks": [],
        "entered": [],
        "left": [],
        "moves": [],
        "waiting": 0,
        "pages_used": 10 * sum(number != DEAD for number in rows),
        "pages_cached": 5,
        "pages_total": 100,
        "pages_freed": 0,
        "tokens": len(fields.get("generating", ())),
    }
    return Iteration(step=step, rows=rows, **(plain | fields))


SCRIPT = [
    iteration(0, [0, 1], chunks=[(0, 30), (1, 10)], entered=[(0, 0, "a"), (1, 1, "b")], waiting=1),
    iteration(1, [0, 1], generating=[0], chunks=[(1, 3)]),
    iteration(2, [0, 1, 2], generating=[0, 1], chunks=[(2, 5)], entered=[(2, 2, "c")]),
    iteration(3, [0, 1, 2], generating=[0, 1, 2], left=[(0, "stop")]),
    iteration(4, [2, 1], generating=[0, 1], moves=[Move(2, 0)], pages_freed=10),
    iteration(5, [2], generating=[0], left=[(1, "preempted")], pages_freed=10, waiting=1),
    iteration(6, [2, 1], generating=[0], chunks=[(1, 14)], entered=[(1, 1, "b")]),
    iteration(7, [2, 1], generating=[0, 1], left=[(2, "length"), (1, "abort")]),
]


def facts_event() -> bytes:
    """The event that opens a stream."""
    return _event({"facts": FACTS})


def event(iterations: list[Iteration], /, **stats: Any) -> bytes:
    """What happened since the last event. Who is alive is read off the last iteration unless `stats` says it."""
    last = iterations[-1] if iterations else None
    counted: dict[str, Any] = {"pages_total": 100, "pages_cached": 5}
    if last is not None:
        gone = {number for number, _ in last.left}
        counted |= {
            "step": last.step + 1,
            "running": len(set(last.rows) - gone - {DEAD}),
            "waiting": last.waiting,
            "generating": len(last.generating),
            "step_ms": last.milliseconds,
            "pages_used": last.pages_used,
        }
    made = EngineStats(**(counted | stats))
    return _event({"iterations": msgspec.to_builtins(iterations), "stats": msgspec.to_builtins(made), "dropped": 0})


def _event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
