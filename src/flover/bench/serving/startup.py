"""`bench startup`: the time from the start of a server's process to the first token, and peak memory.

A start is measured twice. First `flover serve`: the times until it listens, is healthy and sends the first token, and
the peak memory of server and engine process. Then the engine process alone, by the phases of its loading messages:
until weights are read (process, imports, plan), reading and packing, and the rest (pool, warm-up). Beside it, the time
of a process that imports `flover` or prints the help.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from flover.bench.client import COMPLETIONS, Client, Send
from flover.bench.metrics import RequestRecord
from flover.bench.server import ServerProcess
from flover.bench.serving.memory import children, peak_memory, resident_memory
from flover.config import EngineConfig, one_engine
from flover.errors import EngineError
from flover.request import GREEDY
from flover.service.client import EngineClient
from flover.service.listener import EngineListener

POLL_SECONDS = 0.02
COMMANDS = {"import flover": ("-c", "import flover"), "flover --help": ("-m", "flover", "--help")}
COMMAND_RUNS = 5
BLOCK_BYTES = 2**22
PROMPT_LEN = 32
Timed = TypeVar("Timed", "ServerStart", "Phases")


@dataclass(frozen=True, slots=True)
class ServerStart:
    """Seconds since the process was started, the latencies of the first requests, and peak memory in bytes."""

    listening: float
    ready: float
    first_token: float
    first_ttft: float
    second_ttft: float
    door_peak: int
    engine_peak: int


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of the engine process alone, and its memory in bytes before it reads weights."""

    imports: float
    weights: float
    warm_up: float
    before_weights: int


def measure_start(flags: Sequence[str]) -> ServerStart:
    """Start a server, send two requests, read its peak memory and stop it. Raises `EngineError`."""
    with ServerProcess(flags, poll=POLL_SECONDS) as server:
        first, second = asyncio.run(_ask_twice(server.url))
        engines = children(server.pid)
        if len(engines) != 1:
            raise EngineError(f"the server has {len(engines)} child processes instead of one")
        return ServerStart(
            listening=server.listening - server.started,
            ready=server.ready - server.started,
            first_token=first.ticks[0] - server.started,
            first_ttft=first.ttft,
            second_ttft=second.ttft,
            door_peak=peak_memory(server.pid),
            engine_peak=peak_memory(engines[0]),
        )


async def _ask_twice(url: str) -> list[RequestRecord]:
    """Two greedy requests with different prompts, one after the other."""
    async with Client(url) as client:
        model = (await client.model())["id"]
        bodies = [
            {"model": model, "prompt": [token] * PROMPT_LEN, "max_tokens": 2, "ignore_eos": True, **GREEDY}
            for token in (16, 17)
        ]
        records = await client.one_after_another([Send(0.0, COMPLETIONS, body) for body in bodies])
    if failed := [record.error for record in records if not record.ok]:
        raise EngineError(f"the first requests failed: {failed[0]}")
    return records


def measure_phases(config: EngineConfig) -> Phases:
    """Start an engine process alone and stop it. Raises `ConfigError`, `ModelError`, `EngineError`."""
    return asyncio.run(_phases(config))


async def _phases(config: EngineConfig) -> Phases:
    one_engine(config)
    began = done = 0.0
    before_weights = 0

    def on_loading(part: int, total: int, *counted: str) -> None:
        nonlocal began, done, before_weights
        done = time.perf_counter()
        if not began:
            began, before_weights = done, sum(map(resident_memory, children(os.getpid())))

    started = time.perf_counter()
    engine = await EngineClient.start(config, EngineListener(on_loading=on_loading))
    ready = time.perf_counter()
    await engine.close()
    return Phases(began - started, done - began, ready - done, before_weights)


def measure_commands(num: int = COMMAND_RUNS) -> dict[str, float]:
    """By name, the median seconds of `num` processes that each run one of `COMMANDS`, the interpreter's own start
    included. Raises `EngineError`."""
    return {name: sorted(_run_seconds(words) for _ in range(num))[num // 2] for name, words in COMMANDS.items()}


def _run_seconds(words: Sequence[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    if done.returncode:
        raise EngineError(
            f"{words[-1]} ended with code {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}"
        )
    return time.perf_counter() - start


def middle(runs: Sequence[Timed]) -> Timed:
    """The median of each value; of an even number the upper one, so that every value was measured."""
    kind = type(runs[0])
    values = {item.name: sorted(getattr(run, item.name) for run in runs) for item in fields(kind)}
    return kind(**{name: ordered[len(ordered) // 2] for name, ordered in values.items()})


@dataclass(frozen=True, slots=True)
class Startup:
    """All starts of one kind (cold or warm), and the seconds of plainly reading the files."""

    starts: Sequence[ServerStart]
    phases: Sequence[Phases]
    read: float

    @property
    def start(self) -> ServerStart:
        return middle(self.starts)

    @property
    def phase(self) -> Phases:
        return middle(self.phases)


def measure_startup(
    config: EngineConfig,
    flags: Sequence[str],
    files: Sequence[Path],
    num: int,
    *,
    cold: bool,
    ended: Callable[[], None],
) -> Startup:
    """`num` starts; before each cold one the files leave the page cache, before each warm one they are read."""

    def prepare() -> None:
        evict(files) if cold else read_seconds(files)

    starts, phases, reads = [], [], []
    for _ in range(num):
        prepare()
        reads.append(read_seconds(files))
        prepare()
        starts.append(measure_start(flags))
        prepare()
        phases.append(measure_phases(config))
        ended()
    return Startup(starts, phases, sorted(reads)[len(reads) // 2])


# The files of the weights


def weight_files(directory: Path) -> list[Path]:
    """The files of the weights."""
    return sorted(directory.glob("*.safetensors"))


def read_seconds(files: Sequence[Path]) -> float:
    """Seconds of plainly reading the files in blocks, one after another."""
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as source:
            while source.read(BLOCK_BYTES):
                pass
    return time.perf_counter() - start


def evict(files: Sequence[Path]) -> None:
    """Ask the system to drop the files from its page cache. It may not; `read_seconds` shows whether it did."""
    for descriptor in _opened(files):
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _opened(files: Sequence[Path]) -> Iterator[int]:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
