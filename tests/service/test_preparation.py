"""A request whose constraint is being compiled waits alone, and is cancelled as any other."""

from __future__ import annotations

import threading

from support.engines import make_request

from flover.engine.queue import Cancel
from flover.errors import RequestError
from flover.service.preparation import Preparation


class Engine:
    """Notes what it gets."""

    def __init__(self) -> None:
        self.got: list[object] = []
        self.came = threading.Semaphore(0)
        self.preparation = Preparation(self.submit, self.cancel)

    def submit(self, request: object, error: RequestError | None) -> None:
        self.got.append((request.id, error and error.message))  # type: ignore[attr-defined]
        self.came.release()

    def cancel(self, cancel: Cancel) -> None:
        self.got.append(cancel)
        self.came.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.came.acquire(timeout=20)


def test_a_cancellation_follows_its_request() -> None:
    engine, compiled = Engine(), threading.Event()
    engine.preparation.put(make_request("slow"), lambda: compiled.wait(20) and None)
    assert not engine.preparation.holds(Cancel("other"))
    assert engine.preparation.holds(Cancel("slow", 1))
    assert engine.preparation.holds(Cancel("slow"))
    assert engine.got == []
    compiled.set()
    engine.wait(3)
    assert engine.got == [("slow", None), Cancel("slow", 1), Cancel("slow")]
    assert not engine.preparation.holds(Cancel("slow"))
    engine.preparation.close()


def test_a_failure_is_that_requests_own() -> None:
    engine = Engine()

    def refuse() -> None:
        raise RequestError("it cannot be compiled")

    def break_down() -> None:
        raise ValueError("what a client wrote")

    engine.preparation.put(make_request("refused"), refuse)
    engine.preparation.put(make_request("broken"), break_down)
    engine.preparation.put(make_request("good"), lambda: None)
    engine.wait(3)
    broken = "the request cannot be prepared: ValueError"
    assert engine.got == [("refused", "it cannot be compiled"), ("broken", broken), ("good", None)]
    engine.preparation.close()
