"""Runs the comparison: starts the servers of all engines, warms them up, and measures them alternately.

All servers of a format run at the same time, and only one is measured at a time, so that other load on the machine
affects all alike. An engine that fails is reported and left out.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from flover.bench.client import Client, Send
from flover.bench.fusion import as_send, check_all_served
from flover.bench.metrics import RequestRecord, Summary, summarise
from flover.bench.server import ServerProcess
from flover.bench.workload import fixed, fixed_arrivals, random_jobs
from flover.errors import EngineError, FloverError
from flover_benchmarks.rivals.engines import MODEL_NAME, PORT, Command, Contender
from flover_benchmarks.rivals.model import Progress
from flover_benchmarks.rivals.options import RivalLoad, RivalOptions
from flover_benchmarks.rivals.results import Failure, RivalResults

LOWEST_ID = 300
"""Prompts use token ids from here up; below are special tokens and single bytes."""
WARM_UP_OUTPUT = 8
"""Output tokens of a warm-up request."""


class Server(ServerProcess):
    """Any server on a port chosen by this process."""

    def __init__(self, command: Command, patience: float) -> None:
        super().__init__([], patience)
        port = _free_port()
        self.command = [word.replace(PORT, str(port)) for word in command]
        self.url = f"http://127.0.0.1:{port}"


class ServerPool:
    """The running servers. Use as a context manager: all of them stop with it, also at SIGTERM."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._servers: dict[str, tuple[Command, Server]] = {}

    def __enter__(self) -> ServerPool:
        # Each server restores the signal handler that it found: install one that exits before the first starts.
        self._previous_handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop_all()
        finally:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def server(self, name: str, command: Command) -> tuple[Server, float | None]:
        """The engine's server with this command, and its startup time in seconds, None if it ran already.

        A server with another command is stopped first. Raises `EngineError` if the server does not start.
        """
        if name in self._servers and self._servers[name][0] == command:
            return self._servers[name][1], None
        self.stop(name)
        server = Server(command, self._patience)
        began = time.perf_counter()
        server.__enter__()
        self._servers[name] = command, server
        return server, time.perf_counter() - began

    def stop(self, name: str) -> None:
        """Stop an engine's server, if it has one; errors while stopping are ignored."""
        if name in self._servers:
            _, server = self._servers.pop(name)
            server.__exit__(EngineError, None, None)  # pretend an error, so that it raises none of its own

    def stop_all(self) -> None:
        """Stop every server."""
        for name in list(self._servers):
            self.stop(name)


def sends_of(load: RivalLoad, seed: int, ids: tuple[int, int], output_len: int | None = None) -> list[Send]:
    """The requests of a load, a function of the seed: every engine gets the same."""
    jobs = random_jobs(
        seed,
        fixed_arrivals(load.num_requests, 0.0),
        fixed(load.prompt_len),
        fixed(output_len or load.output_len),
        ids,
    )
    return [as_send(job, MODEL_NAME) for job in jobs]


def in_turn(names: Sequence[str], seed: int) -> list[str]:
    """The order of the engines, rotated with the seed."""
    start = seed % len(names)
    return [*names[start:], *names[:start]]


async def measure(url: str, sends: list[Send], prompt_len: int, patience: float) -> Summary:
    """Send all requests at once. Raises `EngineError` if one fails or the server counts other prompt tokens."""
    async with Client(url, timeout=patience) as client:
        records = await client.all_at_their_time(sends)
    check_all_served(records, sends)
    check_prompts(records, prompt_len)
    return summarise(records)


def check_prompts(records: Sequence[RequestRecord], prompt_len: int) -> None:
    """Raise `EngineError` if a server counts other prompt tokens than were sent: it would not be the same work."""
    for index, record in enumerate(records):
        if record.prompt_tokens != prompt_len:
            raise EngineError(
                f"request {index}: the server counts {record.prompt_tokens} prompt tokens of {prompt_len}"
            )


class Contest:
    """One run of the benchmark."""

    def __init__(
        self, contenders: Sequence[Contender], options: RivalOptions, vocab_size: int, progress: Progress
    ) -> None:
        self._contenders = {contender.name: contender for contender in contenders}
        self._options = options
        self._ids = (min(LOWEST_ID, vocab_size // 2), vocab_size - 1)
        self._progress = progress
        self._done = 0
        able = sum(kind in contender.forms for kind in options.formats for contender in contenders)
        self._total = able * len(options.loads) * (options.seeds + 1)
        self.results = RivalResults(tuple(self._contenders))

    def run(self) -> RivalResults:
        """Measure everything."""
        for kind in self._options.formats:
            able = [name for name, contender in self._contenders.items() if self._prepared(kind, contender)]
            with ServerPool(self._options.patience) as fleet:
                for number, load in enumerate(self._options.loads):
                    able = self._one_load(fleet, kind, number, load, able)
        return self.results

    def _prepared(self, kind: str, contender: Contender) -> bool:
        form = contender.forms.get(kind)
        if form is None:
            return False
        self.results.forms[kind, contender.name] = form
        try:
            contender.prepare(kind, lambda what, done, total: self._say(f"{what} ({done}/{total})"))
        except (FloverError, OSError) as error:
            self._fail(contender.name, kind, None, error)
            return False
        return True

    def _one_load(self, fleet: ServerPool, kind: str, number: int, load: RivalLoad, able: Sequence[str]) -> list[str]:
        """Measure a load with the engines in `able`; returns those that have not failed."""
        urls: dict[str, str] = {}
        for name in able:
            self._say(f"{kind}, {load.label}: {name} is starting")
            try:
                server, seconds = fleet.server(name, self._contenders[name].command(kind, load))
                if seconds is not None:
                    self.results.ready_s[kind, name] = seconds
                self._ask(server.url, load, self._seed(number, self._options.seeds), WARM_UP_OUTPUT)
                urls[name] = server.url
            except (FloverError, OSError) as error:
                self._fail(name, kind, load, error)
                fleet.stop(name)
            self._done += 1
        for name in urls:
            self.results.cells[kind, load, name] = []
        for repetition in range(self._options.seeds):
            for name in in_turn(list(self._contenders), repetition):
                if name not in urls:
                    continue
                self._say(f"{kind}, {load.label}: {name}, {repetition + 1} of {self._options.seeds}")
                try:
                    summary = self._ask(urls[name], load, self._seed(number, repetition))
                    self.results.cells[kind, load, name].append(summary)
                except (FloverError, OSError) as error:
                    self._fail(name, kind, load, error)
                    fleet.stop(name)
                    del urls[name], self.results.cells[kind, load, name]
                self._done += 1
        return [name for name in able if name in urls]

    def _ask(self, url: str, load: RivalLoad, seed: int, output_len: int | None = None) -> Summary:
        sends = sends_of(load, seed, self._ids, output_len)
        return asyncio.run(measure(url, sends, load.prompt_len, self._options.patience))

    def _seed(self, number: int, repetition: int) -> int:
        """A seed unique to this load and repetition."""
        return number * (self._options.seeds + 1) + repetition

    def _say(self, what: str) -> None:
        self._progress(what, self._done, self._total)

    def _fail(self, name: str, kind: str, load: RivalLoad | None, error: BaseException) -> None:
        self.results.failures.append(Failure(name, kind, load.label if load else None, str(error)))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
