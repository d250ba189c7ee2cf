"""All batches of a server: created, cancelled, and gone on with after a start."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from flover.server.batches.objects import (
    COMPLETION_SECONDS,
    Batch,
    BatchBody,
    FileObject,
    StoredBatch,
    new_batch_id,
    new_file_id,
)
from flover.server.batches.run import Ask, BatchLimits, BatchRun
from flover.server.batches.store import Store
from flover.server.errors import HttpError


class Batches:
    """Runs every unfinished batch of a store. Used in one event loop."""

    def __init__(self, store: Store, limits: BatchLimits, ask: Ask) -> None:
        self.store = store
        self._limits, self._ask = limits, ask
        self._slots = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(limits.concurrency))
        """Of each key: in the engine keys take turns."""
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}

    def resume(self) -> None:
        """Go on with the batches that an earlier server left unfinished, in order."""
        unfinished = [one for one in self.store.batches.values() if not one.batch.ended]
        for stored in sorted(unfinished, key=lambda one: one.batch.created_at):
            self._start(stored)

    async def create(self, owner: str, body: BatchBody) -> Batch:
        """Begin a batch. Raises a 404 or 429 as `HttpError`."""
        now = self.store.now()
        batch = Batch(
            id=new_batch_id(),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            created_at=now,
            expires_at=now + COMPLETION_SECONDS,
            metadata=body.metadata,
        )
        stored = StoredBatch(owner, batch, new_file_id(), new_file_id())

        def save() -> None:
            self.file_of(owner, body.input_file_id, "input_file_id")
            self.store.add_batch(stored)

        await self.store.in_thread(save)
        self._start(stored)
        return batch

    async def cancel(self, owner: str, batch_id: str) -> Batch:
        """Answer no more requests of a batch. Raises a 404 or 409 as `HttpError`."""
        stored = self.stored_of(owner, batch_id)
        if stored.batch.ended or stored.batch.status == "finalizing":
            raise HttpError(409, f"the batch is {stored.batch.status} and cannot be cancelled", code="batch_ended")
        if stored.batch.status != "cancelling":
            stored.batch.status, stored.batch.cancelling_at = "cancelling", self.store.now()
            await self.store.in_thread(lambda: self.store.save(stored))
            if batch_id in self._runs:
                self._runs[batch_id][0].cancel()
        return stored.batch

    def stored_of(self, owner: str, batch_id: str) -> StoredBatch:
        """A batch of this key. Raises a 404 as `HttpError`."""
        stored = self.store.batches.get(batch_id)
        if stored is None or stored.owner != owner:
            raise HttpError(404, "there is no batch of this id", param="batch_id", code="not_found")
        return stored

    def file_of(self, owner: str, file_id: str, param: str = "file_id") -> FileObject:
        """A file of this key. Raises a 404 as `HttpError`."""
        stored = self.store.files.get(file_id)
        if stored is None or stored.owner != owner or stored.file.expires_at <= self.store.now():
            raise HttpError(404, "there is no file of this id", param=param, code="not_found")
        return stored.file

    async def close(self) -> None:
        """Stop; what is unfinished is gone on with by the next server on the same directory. May be called twice."""
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, stored: StoredBatch) -> None:
        run = BatchRun(stored, self.store, self._limits, self._slots[stored.owner], ask=self._ask)
        task = asyncio.create_task(run.run(), name=stored.batch.id)
        self._runs[stored.batch.id] = run, task
        task.add_done_callback(lambda _: self._runs.pop(stored.batch.id))
