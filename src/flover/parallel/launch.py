"""Starts the ranks of one model that run on this machine and watches them. Each is a process of its own, at the end
of a socket: when whoever started it dies, it hears of that and ends."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from flover.config import EngineConfig
from flover.engine import wire
from flover.engine.device import DeviceExecutor
from flover.engine.spawn import Spawned, spawn
from flover.errors import EngineDeadError
from flover.model.hf_config import read_model_directory
from flover.model.load import weight_format_of
from flover.model.locate import locate_model
from flover.model.shard import Shard
from flover.parallel.ranks import Leader
from flover.parallel.rendezvous import join

FOLLOWER_COMMAND = (sys.executable, "-m", "flover.parallel.follower")
LEAVE_SECONDS = 2.0


class Join(msgspec.Struct, frozen=True):
    """Rank 0 to a new process: you are this rank; the others are found through the file."""

    config: EngineConfig
    rank: int
    rendezvous: str


def load_group(config: EngineConfig, progress: Callable[[int, int], None]) -> Leader:
    """Start the other ranks, load this one's share of the model, and lead. Raises what loading a model raises."""
    _, model = read_model_directory(
        locate_model(config.model, config.revision, config.download_dir, weights=config.load_format != "dummy")
    )
    for rank in range(config.tensor_parallel_size):
        Shard(rank, config.tensor_parallel_size).config(model, weight_format_of(config))
    folder = Path(tempfile.mkdtemp(prefix="flover-ranks-"))
    file = str(folder / "store")
    followers = Followers()
    try:
        for rank in range(1, config.tensor_parallel_size // config.nnodes):
            followers.start(Join(config, rank, file))
        group = join(config, 0, file)
        own = DeviceExecutor.load(config, progress, group)
    except BaseException:
        followers.end(False)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Leader(own, group, followers.check, followers.end)


def follow_node(config: EngineConfig) -> int:
    """The ranks of a machine that is not machine 0, until all of them have left or one has failed; the exit code."""
    each = config.tensor_parallel_size // config.nnodes
    followers = Followers()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    try:
        for rank in range(config.node_rank * each, (config.node_rank + 1) * each):
            followers.start(Join(config, rank, ""))
        return followers.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        followers.end(False)


class Followers:
    """The processes of the other ranks."""

    def __init__(self) -> None:
        self._spawned: dict[int, Spawned] = {}

    def start(self, message: Join) -> None:
        """One more."""
        started = spawn(FOLLOWER_COMMAND)
        self._spawned[message.rank] = started
        started.sock.sendall(wire.frame(msgspec.msgpack.encode(message)))

    def check(self) -> None:
        """Raises `EngineDeadError` if one of them has ended."""
        for rank, started in self._spawned.items():
            code = started.process.poll()
            if code is not None:
                raise EngineDeadError(f"rank {rank} has ended with exit code {code}")

    def wait(self) -> int:
        """Until all have left in order, or one has not; its exit code then."""
        while any(started.process.poll() is None for started in self._spawned.values()):
            if any(started.process.poll() not in (None, 0) for started in self._spawned.values()):
                break
            time.sleep(0.1)
        return next((1 for started in self._spawned.values() if started.process.poll() != 0), 0)

    def end(self, they_leave: bool) -> None:
        """Give them a moment if they leave by themselves; then make sure that all of them are gone."""
        for started in self._spawned.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.process.wait(LEAVE_SECONDS if they_leave else 0)
            started.end()
        self._spawned.clear()
