"""Starts the ranks of one model on this machine and watches them. Each is a process of its own, bound to rank 0's life
by a socket: when either end dies the other one hears of it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from flover.config import EngineConfig
from flover.engine import wire
from flover.engine.device import DeviceExecutor
from flover.engine.spawn import Spawned, spawn
from flover.errors import EngineDeadError
from flover.model.hf_config import read_model_directory
from flover.model.locate import locate_model
from flover.model.shard import Shard
from flover.parallel.group import GlooGroup, dist
from flover.parallel.ranks import Leader

FOLLOWER_COMMAND = (sys.executable, "-m", "flover.parallel.follower")
LOOPBACK = "127.0.0.1"
LEAVE_SECONDS = 2.0


class Join(msgspec.Struct, frozen=True):
    """Rank 0 to a new process: you are this rank; the others are found through the file."""

    config: EngineConfig
    rank: int
    rendezvous: str


def join(config: EngineConfig, rank: int, rendezvous: str) -> GlooGroup:
    """Meet the other ranks. Raises `EngineDeadError` if they do not come."""
    size = config.tensor_parallel_size
    store = dist.FileStore(rendezvous, size)
    timeout = config.distributed_timeout_seconds
    return GlooGroup(store, rank, size, local_size=size, address=LOOPBACK, timeout=timeout)


def load_group(config: EngineConfig, progress: Callable[[int, int], None]) -> Leader:
    """Start the other ranks, load this one's share of the model, and lead. Raises what loading a model raises."""
    _, model = read_model_directory(
        locate_model(config.model, config.revision, config.download_dir, weights=config.load_format != "dummy")
    )
    for rank in range(config.tensor_parallel_size):
        Shard(rank, config.tensor_parallel_size).config(model)
    folder = Path(tempfile.mkdtemp(prefix="flover-ranks-"))
    followers = Followers()
    try:
        for rank in range(1, config.tensor_parallel_size):
            followers.start(Join(config, rank, str(folder / "store")))
        group = join(config, 0, str(folder / "store"))
        own = DeviceExecutor.load(config, progress, group)
    except BaseException:
        followers.end(False)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Leader(own, group, followers.check, followers.end)


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

    def end(self, they_leave: bool) -> None:
        """Give them a moment if they leave by themselves; then make sure that all of them are gone."""
        for started in self._spawned.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.process.wait(LEAVE_SECONDS if they_leave else 0)
            started.end()
        self._spawned.clear()
