"""Signs of life between machines, without machines: a store of its own, and a clock that is told the time."""

from __future__ import annotations

import threading
import time

import pytest

from flover.errors import EngineDeadError
from flover.parallel.heartbeat import HeartbeatMonitor, beat


class Store:
    """What a rank needs of torch.distributed's stores. `broken`: rank 0 is gone. `stuck`: it answers no more."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.broken = False
        self.stuck = threading.Event()
        self.stuck.set()

    def add(self, key: str, amount: int) -> int:
        self.stuck.wait(10)
        if self.broken:
            raise RuntimeError("connection reset")
        self.counts[key] = self.counts.get(key, 0) + amount
        return self.counts[key]


def test_who_counts_up_lives_and_who_stops_is_named() -> None:
    store, now = Store(), [0.0]
    beats = HeartbeatMonitor(store, [1, 2], timeout=60, clock=lambda: now[0])
    for second in range(200):
        now[0] = float(second)
        store.add("beats-1", 1)
        if second < 100:
            store.add("beats-2", 1)
        if second < 155:
            beats.check()
    with pytest.raises(EngineDeadError, match=r"rank 2 has said nothing for \d+ s"):
        beats.check()


def test_a_rank_that_never_began_is_dead_too() -> None:
    now = [0.0]
    beats = HeartbeatMonitor(Store(), [1], timeout=60, clock=lambda: now[0])
    now[0] = 60.0
    beats.check()
    now[0] = 71.0
    with pytest.raises(EngineDeadError, match="rank 1"):
        beats.check()


@pytest.mark.parametrize("how", ["broken", "stuck"])
def test_a_rank_ends_when_rank_0_is_gone(how: str) -> None:
    store, ended = Store(), threading.Event()

    def end(code: int) -> None:
        assert code == 1
        ended.set()
        threading.Event().wait()  # as os._exit, it does not return

    beat(store, 3, timeout=0.3, patience=lambda: 0.3, end=end)
    assert not ended.wait(0.6)
    assert store.counts["beats-3"] >= 4
    if how == "broken":
        store.broken = True
    else:
        store.stuck.clear()
    assert ended.wait(2)


def test_while_the_group_forms_rank_0_has_longer() -> None:
    """The store answers late, as it does where a machine is busy with loading."""
    store, ended = Store(), threading.Event()
    patience = [60.0]
    beat(store, 2, timeout=0.2, patience=lambda: patience[0], end=lambda code: ended.set())
    store.stuck.clear()
    assert not ended.wait(0.6)
    patience[0] = 0.2
    assert ended.wait(2)
    store.stuck.set()


def test_a_rank_that_leaves_in_order_is_waited_for_and_outlives_rank_0() -> None:
    store, ended = Store(), threading.Event()
    leave = beat(store, 1, timeout=0.3, patience=lambda: 0.3, end=lambda code: ended.set())
    beats = HeartbeatMonitor(store, [1], timeout=60)
    began = time.monotonic()
    beats.wait_left(0.2)
    assert time.monotonic() - began >= 0.2, "it has not left yet"
    leave()
    beats.wait_left(60)
    assert time.monotonic() - began < 30
    store.broken = True
    assert not ended.wait(0.6)
