"""The engine under every kind of load and fault that a seed can draw, held to its laws at every step.

A failure prints the last events and the command that replays them: `python -m tests.simulation SEED`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from .device import FAULTS
from .simulator import simulate
from .workload import CANCEL_EVENTS, FLAVOURS

ROOT = Path(__file__).parents[2]


def test_the_laws_hold(seeds: range, steps: int) -> None:
    for seed in seeds:
        simulate(seed, steps)


def test_runs_meet_all_that_is_hard_for_a_scheduler() -> None:
    """A handful of runs: every kind of cancellation and of fault, every reason to end, and more."""
    seen: Counter[str] = Counter()
    for seed in range(6 * len(FLAVOURS)):
        seen += simulate(seed, steps=200).counts
    for seed in (38, 52):  # where sequences are preempted as often as they may be
        seen += simulate(seed, steps=300).counts
    expected = [f"cancel {event}" for event in CANCEL_EVENTS]
    expected += [f"fault {kind}" for kind in (*FAULTS, "poisoned request")]
    expected += [f"ended {reason}" for reason in ("stop", "length", "abort", "error")]
    expected += [
        "refused",
        "moves",
        "dead rows",
        "reused tokens",
        "preempted",
        "guaranteed",
        "proposed",
        "several at once",
        "backfill that made way",
        "newcomers that got a row",
    ]
    assert [name for name in expected if not seen[name]] == []


def test_the_same_seeds_give_the_same_traces_in_two_processes() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--hash", "0", "21", "--steps", "150"]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={"PYTHONHASHSEED": salt}, stdout=subprocess.PIPE, text=True)
        for salt in ("1", "2")
    ]
    first, second = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(first.splitlines()) == 21
    assert first == second
