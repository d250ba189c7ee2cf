"""The request queue: arrivals and cancellations on their way from any thread into the loop. The only lock of the
engine."""

from __future__ import annotations

import threading

import msgspec

from flover.errors import RequestError
from flover.request import Request


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A checked request, as it is sent to the engine process and written to a record."""

    request: Request


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """End this request's sequence `index`, or all of its sequences (index None)."""

    request_id: str
    index: int | None = None


class RequestQueue:
    """First in, first out. Request ids are unique among the open requests."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Request | Cancel] = []
        self._open: set[str] = set()

    def put(self, item: Request | Cancel) -> None:
        """Add an arrival or a cancellation. Raises `RequestError` if the id of an arrival is in use."""
        with self._changed:
            if isinstance(item, Request):
                if item.id in self._open:
                    raise RequestError(f"request id {item.id!r} is in use", param="request_id")
                self._open.add(item.id)
            self._items.append(item)
            self._changed.notify_all()

    def take(self) -> list[Request | Cancel]:
        """Everything that has come since the last call, in order."""
        with self._changed:
            items, self._items = self._items, []
        return items

    def close(self, request_ids: list[str]) -> None:
        """These requests have ended; their ids may be used again."""
        with self._changed:
            self._open.difference_update(request_ids)

    def wait(self, timeout: float) -> bool:
        """Block until something is there, at most `timeout` seconds; whether something is."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._items), timeout)

    def __bool__(self) -> bool:
        with self._changed:
            return bool(self._items)
