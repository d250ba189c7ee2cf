"""One batch, from its file to its answers. It goes on where it was when the server ended."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import msgspec

from flover.server.batches.ask import Reply
from flover.server.batches.lines import Answer, LineError, answered_ids, read_line, read_lines, write_answer
from flover.server.batches.objects import BatchError, BatchErrors, Status, StoredBatch
from flover.server.batches.store import Store
from flover.server.errors import HttpError

LINES_AT_ONCE = 256
"""Read in one go: the event loop takes turns with it."""
LONGEST_PAUSE = 30.0
"""Seconds between two tries of a request that the server had no room for."""

_DEADLINE = b'"deadline_exceeded"'
"""In a 429 that is the answer: the request itself sets a deadline."""
Ask = Callable[[str, bytes, str], Awaitable[Reply]]
"""Sends a body to a route, for the key with this salt."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Of one batch: requests, bytes of one, and requests at once."""

    max_requests: int
    max_line_bytes: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request is in its file."""

    number: int
    offset: int
    size: int


class BatchRun:
    """Runs one batch. `slots` are shared by all batches of a key, which take turns."""

    def __init__(
        self, stored: StoredBatch, store: Store, limits: BatchLimits, slots: asyncio.Semaphore, *, ask: Ask
    ) -> None:
        self._stored, self._batch = stored, stored.batch
        self._store, self._limits, self._slots, self._ask = store, limits, slots, ask
        self._open: dict[int, Place] = {}
        self._work: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Answer no more requests."""
        if self._work is not None:
            self._work.cancel()

    async def run(self) -> None:
        """Until it has ended. To cancel the task leaves the batch as it is, for a later run."""
        try:
            await self._read()
            await self._mark("in_progress")
            await self._answer_until_expired()
        except LineError as error:
            await self._fail(BatchError(code="invalid_request_line", message=str(error), line=error.number))
        except HttpError as error:
            await self._fail(BatchError(code=error.code or "failed", message=error.message))
        except OSError as error:
            await self._fail(BatchError(code="input_output_error", message=error.strerror or "a file failed"))
        except Exception:
            logger.exception("batch %s failed unexpectedly", self._batch.id)
            await self._fail(BatchError(code="internal_error", message="the server failed; its log says why"))

    # Before

    async def _read(self) -> None:
        """Find the requests that have no answer yet. Raises `LineError` if a line of the file is no request."""
        counts = self._batch.request_counts
        done, counts.completed = await self._store.in_thread(lambda: self._answered(self._stored.output_id))
        refused, counts.failed = await self._store.in_thread(lambda: self._answered(self._stored.error_id))
        done |= refused
        counts.total, path = 0, self._store.path(self._batch.input_file_id)
        with await self._store.in_thread(lambda: path.open("rb")) as file:
            found = self._places(file)
            while part := await self._store.in_thread(lambda: list(itertools.islice(found, LINES_AT_ONCE))):
                counts.total += len(part)
                self._open |= {place.number: place for custom_id, place in part if custom_id not in done}
                if counts.total > self._limits.max_requests:
                    most = self._limits.max_requests
                    raise LineError(part[-1][1].number, f"more requests than --max-batch-requests {most}")
        if not counts.total:
            raise LineError(1, "the file has no request")

    def _places(self, file: BinaryIO) -> Iterator[tuple[str, Place]]:
        offset = size = 0

        def tracked() -> Iterator[bytes]:
            nonlocal offset, size
            for line in file:
                offset, size = offset + size, len(line)
                yield line

        for number, line in read_lines(tracked(), (self._batch.endpoint,), self._limits.max_line_bytes):
            yield line.custom_id, Place(number, offset, size)

    def _answered(self, file_id: str) -> tuple[set[str], int]:
        """The ids of answers that are there, and how many they are; a line that was cut short is taken away."""
        if not self._store.size(file_id):
            return set(), 0
        with self._store.path(file_id).open("r+b") as file:
            ids, size = answered_ids(file)
            file.truncate(size)
        return ids, len(ids)

    # Answers

    async def _answer_until_expired(self) -> None:
        left = self._batch.expires_at - self._store.now()
        self._work = asyncio.create_task(self._answer_all())
        if self._batch.status == "cancelling":
            self._work.cancel()
        try:
            await asyncio.wait({self._work}, timeout=max(0, left))
        finally:
            expired = not self._work.done()
            self._work.cancel()
            await asyncio.wait({self._work})
        if self._batch.status == "cancelling":
            await self._end("cancelled")
        elif expired:
            answer = Answer(0, None, "the completion window ended before this request was computed", "batch_expired")
            for place in await self._store.in_thread(lambda: list(self._open.values())):
                await self._store.in_thread(partial(self._keep, place, answer))
            await self._end("expired")
        else:
            self._work.result()
            await self._mark("finalizing")
            await self._end("completed")

    async def _answer_all(self) -> None:
        todo = iter(list(self._open.values()))

        async def work() -> None:
            for place in todo:
                async with self._slots:
                    await self._answer(place)

        workers = [asyncio.create_task(work()) for _ in range(min(self._limits.concurrency, len(self._open)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, place: Place) -> None:
        """Ask until the server has room; a line of a file that was checked is a request."""
        line = read_line(await self._store.in_thread(lambda: self._line(place)), place.number)
        while True:
            reply = await self._ask(line.url, bytes(line.body), self._stored.owner)
            if reply.status not in (429, 503) or _DEADLINE in reply.body:
                break
            await asyncio.sleep(min(reply.retry_after, LONGEST_PAUSE))
        answer = Answer(reply.status, msgspec.Raw(reply.body))
        await self._store.in_thread(lambda: self._keep(place, answer, reply.request_id))

    def _keep(self, place: Place, answer: Answer, request_id: str = "") -> None:
        """Write one answer and count it: in the store's thread, both or nothing, whoever is cancelled."""
        custom_id = read_line(self._line(place), place.number).custom_id
        line = write_answer(custom_id, answer, request_id or f"{self._batch.id}-{place.number}")
        stored = self._stored
        self._store.append(stored.owner, stored.output_id if answer.is_good else stored.error_id, line)
        self._open.pop(place.number)
        counts = self._batch.request_counts
        counts.completed, counts.failed = counts.completed + answer.is_good, counts.failed + (not answer.is_good)

    def _line(self, place: Place) -> bytes:
        with self._store.path(self._batch.input_file_id).open("rb") as file:
            file.seek(place.offset)
            return file.read(place.size)

    # States

    async def _mark(self, status: Status) -> None:
        """Enter a state, at the first time it is entered; a batch that is being cancelled enters no other."""
        name = f"{status}_at"
        if self._batch.status != "cancelling":
            self._batch.status = status
            setattr(self._batch, name, getattr(self._batch, name) or self._store.now())
        await self._store.in_thread(lambda: self._store.save(self._stored))

    async def _end(self, status: Status) -> None:
        """Name the files of answers, then say that it has ended."""

        def end() -> None:
            batch, stored = self._batch, self._stored
            if self._store.size(stored.output_id):
                file = self._store.name_file(stored.owner, stored.output_id, f"{batch.id}_output.jsonl", "batch_output")
                batch.output_file_id = file.id
            if self._store.size(stored.error_id):
                file = self._store.name_file(stored.owner, stored.error_id, f"{batch.id}_error.jsonl", "batch_output")
                batch.error_file_id = file.id
            batch.status = status
            setattr(batch, f"{status}_at", self._store.now())
            self._store.save(stored)

        await self._store.in_thread(end)

    async def _fail(self, error: BatchError) -> None:
        """End as failed; where even this cannot be written, it is at least what is told."""
        self._batch.errors = BatchErrors([error])
        try:
            await self._end("failed")
        except OSError as failure:
            self._batch.status, self._batch.failed_at = "failed", self._store.now()
            logger.error("batch %s cannot be written: %s", self._batch.id, failure.strerror)
