"""Whether the constraint of a request can be compiled: asked of a process (`grammar_process.py`) before the request is
admitted, so that a constraint is refused or honoured, and no engine meets one that it would die of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from sys import executable
from typing import Any

import msgspec

from flover.errors import OutOfResourcesError, RequestError
from flover.ipc import wire
from flover.ipc.spawn import Spawned, spawn
from flover.request import ModelFacts
from flover.service.grammar_limits import CPU_SECONDS, MEMORY_BYTES, Setup, Verdict
from flover.service.turns import Turns
from flover.structured_outputs import FIELD, StructuredOutputsParams, Vocabulary

COMMAND = (executable, "-m", "flover.service.grammar_process")
MAX_TRIES = 2
"""Processes that may die of a constraint: one may have been ended by something else."""
MAX_KNOWN = 1024
"""Verdicts that are kept."""
PATIENCE_SECONDS = 30.0
"""For one verdict on a machine that is busy otherwise."""

logger = logging.getLogger(__name__)


class GrammarCheck:
    """Belongs to one asyncio loop. The process is started for the first constraint and after one that it died of."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command
        self._known: OrderedDict[bytes, str | None] = OrderedDict()
        self._asking: dict[bytes, _Question] = {}
        self._turns = Turns()
        self._process: _Process | None = None

    async def check(
        self,
        params: StructuredOutputsParams,
        facts: ModelFacts,
        vocabulary: Callable[[], Vocabulary],
        client: str = "",
    ) -> None:
        """Raises `RequestError` if the constraint cannot be compiled, `OutOfResourcesError` if there is no process to
        find out. Requests with the same constraint wait for one verdict; if all of them are cancelled, nothing is
        compiled for them any more. `vocabulary` is called in a thread. Clients take turns."""
        if not facts.eos_ids:
            return  # `check_request` refuses it
        key = blake2b(params.key, digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            error = self._known[key]
        else:
            error = await self._wait(key, lambda: self._ask(key, params, facts, vocabulary, client))
        if error is not None:
            raise RequestError(error, param=FIELD)

    async def _wait(self, key: bytes, ask: Callable[[], Coroutine[Any, Any, str | None]]) -> str | None:
        """The verdict that `ask` finds, unless it was asked before. The last one that stops waiting ends the asking."""
        question = self._asking.get(key)
        if question is None:
            question = self._asking[key] = _Question(asyncio.create_task(ask()))
        question.waiting += 1
        try:
            return await asyncio.shield(question.task)
        finally:
            question.waiting -= 1
            if not question.waiting:
                question.task.cancel()
                del self._asking[key]

    def close(self) -> None:
        """End the process."""
        for question in self._asking.values():
            question.task.cancel()
        self._drop()

    async def _ask(
        self,
        key: bytes,
        params: StructuredOutputsParams,
        facts: ModelFacts,
        vocabulary: Callable[[], Vocabulary],
        client: str,
    ) -> str | None:
        async with self._turns.turn(client):
            error: str | None = None
            for _ in range(MAX_TRIES):
                if self._process is None:
                    setup = Setup(await asyncio.to_thread(vocabulary), facts.vocab_size, facts.eos_ids)
                    self._process = await _Process.start(self._command, setup)
                verdict = await self._verdict(self._process, params)
                if verdict is not None:
                    error = verdict.error
                    break
                error = (
                    f"{FIELD}.{params.kind} cannot be compiled in {CPU_SECONDS:g} s of processor time and "
                    f"{MEMORY_BYTES >> 20} MiB of memory"
                )
                if self._drop() == -signal.SIGVTALRM:
                    break
        self._known[key] = error
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return error

    async def _verdict(self, process: _Process, params: StructuredOutputsParams) -> Verdict | None:
        """None if the process has ended, or said what is no verdict."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await process.ask(params)
        except TimeoutError:
            self._drop()
            raise OutOfResourcesError(f"{FIELD} were not compiled in {PATIENCE_SECONDS:g} s") from None
        except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
            logger.warning("the process that compiles constraints has ended")
            return None
        except asyncio.CancelledError:
            self._drop()
            raise

    def _drop(self) -> int:
        """End the process; its exit code."""
        process, self._process = self._process, None
        return 0 if process is None else process.end()


@dataclass(slots=True)
class _Question:
    """A constraint whose verdict is waited for."""

    task: asyncio.Task[str | None]
    waiting: int = 0


class _Process:
    """The running process."""

    def __init__(self, spawned: Spawned, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawned = spawned
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, command: Sequence[str], setup: Setup) -> _Process:
        spawned = spawn(command)
        spawned.sock.setblocking(False)
        process = cls(spawned, *await asyncio.open_connection(sock=spawned.sock))
        process._send(msgspec.msgpack.encode(setup))
        return process

    async def ask(self, params: StructuredOutputsParams) -> Verdict:
        """Raises `IncompleteReadError` or `OSError` if the process has ended."""
        self._send(params.key)
        length = wire.body_length(await self._reader.readexactly(wire.HEADER_BYTES))
        return msgspec.msgpack.decode(await self._reader.readexactly(length), type=Verdict)

    def end(self) -> int:
        """Kill it, if it still runs; its exit code."""
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._spawned.process.kill()
        return self._spawned.process.wait()

    def _send(self, body: bytes) -> None:
        self._writer.write(wire.frame(body))
