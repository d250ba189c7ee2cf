"""The ranks of another machine that the machine refuses to start for a while."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flover.config import EngineConfig
from flover.errors import OutOfResourcesError
from flover.ipc.restarts import MOST_RESTARTS, PATIENCE_SECONDS
from flover.ipc.spawn import Spawned
from flover.parallel import launch


class Machine:
    """Refuses some spawns; the ranks of all others end with an exit code each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refusals: int, codes: list[int]) -> None:
        self.now = 0.0
        self.spawned = 0
        self._refusals = refusals
        self._codes: Iterator[int] = iter(codes)
        monkeypatch.setattr(launch, "spawn", self._spawn)
        monkeypatch.setattr(launch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(launch.time, "sleep", self._sleep)
        monkeypatch.setattr(launch.signal, "signal", lambda *arguments: None)
        monkeypatch.setattr(launch.Followers, "start", lambda followers, message: self._spawn())
        monkeypatch.setattr(launch.Followers, "wait", lambda followers: next(self._codes))

    def _spawn(self, *arguments: object) -> Spawned | None:
        if self._refusals:
            self._refusals -= 1
            raise OutOfResourcesError("none is left")
        self.spawned += 1
        return None

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


CONFIG = EngineConfig(tensor_parallel_size=2, nnodes=2, node_rank=1)


def test_refusals_do_not_count_against_the_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, refusals=6, codes=[1, 1, 1, 0])
    assert launch.follow_node(CONFIG) == 0
    assert machine.spawned == 4
    assert machine.now > 30, "attempts come later and later"


def test_refusals_without_end_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, refusals=10**6, codes=[])
    assert launch.follow_node(CONFIG) == 1
    assert PATIENCE_SECONDS <= machine.now <= PATIENCE_SECONDS + 31


def test_ranks_that_fail_again_and_again_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, refusals=0, codes=[1] * 10)
    assert launch.follow_node(CONFIG) == 1
    assert machine.spawned == MOST_RESTARTS + 1
