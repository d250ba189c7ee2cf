"""The adapters of one device: which are loaded, and in which slots of the decoder's tables.

An adapter is read when the first request with it comes, in any thread, and takes a slot when that request gets a row,
in the thread that changes rows. Beyond `--max-loras`, the adapter leaves that was used longest ago and has no row; it
is read again should it be asked for. There is a slot for every row, so none ever waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from flover.errors import ModelError, RequestError
from flover.lora import LoraAdapter
from flover.memory.columns import Array
from flover.model.adapters import AdapterParts
from flover.ops.adapters import AdapterTable

NO_ADAPTER = -1


class DeviceAdapters:
    """Up to `num_kept` adapters, and those of rows, in the `tables` of a decoder with `num_kept` + `num_rows` slots;
    `read` reads one and raises `ModelError`."""

    def __init__(
        self,
        tables: Mapping[str, AdapterTable],
        num_kept: int,
        num_rows: int,
        read: Callable[[LoraAdapter], AdapterParts],
    ) -> None:
        self._tables = tables
        self._num_kept = num_kept
        self._num_slots = num_kept + num_rows
        self._read = read
        self._lock = threading.Lock()
        self._slots: dict[LoraAdapter, int] = {}  # the one used longest ago first
        self._ready: dict[LoraAdapter, AdapterParts] = {}  # read, without a slot yet

    def prepare(self, adapter: LoraAdapter) -> Callable[[], None] | None:
        """What has to be done before a request with this adapter is queued, in any thread; None if nothing. What is
        returned raises `RequestError`."""
        with self._lock:
            if adapter in self._slots or adapter in self._ready:
                return None
        return lambda: self._prepare(adapter)

    def slot(self, adapter: LoraAdapter | None, used: Array) -> int:
        """The slot of an adapter for a row that is to use it, while the rows that are there use those of `used`; in the
        thread that changes rows."""
        if adapter is None:
            return NO_ADAPTER
        with self._lock:
            slot = self._slots.pop(adapter, None)
            parts = self._ready.pop(adapter, None)
        if slot is None:
            slot = self._fill(self._read(adapter) if parts is None else parts, set(used.tolist()))
        with self._lock:
            self._slots[adapter] = slot
        return slot

    def close(self) -> None:
        """Free all adapters."""
        with self._lock:
            self._ready.clear()
            self._slots.clear()

    def _prepare(self, adapter: LoraAdapter) -> None:
        try:
            parts = self._read(adapter)
        except ModelError as error:
            raise RequestError(f"the adapter {adapter.name} cannot be loaded: {error}", param="model") from error
        with self._lock:
            if adapter not in self._slots:
                self._ready[adapter] = parts
            while len(self._ready) > self._num_kept:  # of requests that were cancelled before they got a row
                del self._ready[next(iter(self._ready))]

    def _fill(self, parts: AdapterParts, used: set[int]) -> int:
        slot = self._free_slot(used)
        for name, table in self._tables.items():
            table.put(slot, parts.get(name, ()))
        return slot

    def _free_slot(self, used: set[int]) -> int:
        with self._lock:
            if len(self._slots) >= self._num_kept:
                for adapter, slot in self._slots.items():
                    if slot not in used:
                        del self._slots[adapter]
                        return slot
            taken = used.union(self._slots.values())
        return next(slot for slot in range(self._num_slots) if slot not in taken)
