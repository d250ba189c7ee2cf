"""Starts the ranks of one model that run on this machine and watches them. Each is a process of its own, at the end
of a socket: when the process that started it dies, the socket ends, and so does the rank."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import msgspec

from flover.config import EngineConfig
from flover.errors import OutOfResourcesError, RankLostError
from flover.executor.detect import new_platform, resolve_device
from flover.executor.load import load_device
from flover.ipc import wire
from flover.ipc.exits import describe_exit
from flover.ipc.restarts import MOST_RESTARTS, RestartLimit, Restarts
from flover.ipc.spawn import Spawned, spawn
from flover.model.describe import describe_model
from flover.model.shard import Shard
from flover.parallel.frames import EXIT_FAILED, EXIT_HOPELESS, Join
from flover.parallel.heartbeat import HeartbeatMonitor
from flover.parallel.nccl import check_nccl
from flover.parallel.rank_group import RankGroup
from flover.parallel.ranks import Leader
from flover.parallel.rendezvous import join
from flover.temporary import TemporaryDirectory

FOLLOWER_COMMAND = (sys.executable, "-m", "flover.parallel.follower")
LEAVE_SECONDS = 2.0
POLL_SECONDS = 0.1

logger = logging.getLogger(__name__)


def load_group(config: EngineConfig, progress: Callable[[int, int], None]) -> Leader:
    """Start the other ranks, load this one's share of the model, and lead. Raises what loading a model raises."""
    config = resolve_device(config)
    # Refused before anything starts: what cannot be cut, and too few GPUs.
    if config.device == "cuda":
        check_nccl()
    new_platform(config).check(describe_model(config, Shard(0, config.tensor_parallel_size)))
    folder, followers = TemporaryDirectory("ranks"), Followers()
    file = str(folder.path / "store")
    try:
        for rank in range(1, config.local_ranks):
            followers.start(Join(config, rank, file))
        group, store = _meet(config, file, followers)
        group.watch(followers.check)
        own = load_device(config, progress, group)
    except BaseException:
        followers.end(False)
        folder.close()
        raise
    if config.device != "cuda":  # NCCL's threads look into the store for as long as they run
        folder.close()
    elsewhere = range(config.local_ranks, config.tensor_parallel_size)
    beats = HeartbeatMonitor(store, elsewhere, config.distributed_timeout_seconds)

    def check() -> None:
        followers.check()
        beats.check()

    def end(they_leave: bool) -> None:
        if they_leave:
            beats.wait_left(LEAVE_SECONDS)
        followers.end(they_leave)
        folder.close()

    return Leader(own, group, check, end)


def _meet(config: EngineConfig, file: str, followers: Followers) -> tuple[RankGroup, Any]:
    """Join, unless a rank that was started here ends before: the others would wait for it."""
    meeting: Future[tuple[RankGroup, Any]] = Future()

    def work() -> None:
        try:
            meeting.set_result(join(config, 0, file))
        except BaseException as error:
            meeting.set_exception(error)

    threading.Thread(target=work, name="rendezvous", daemon=True).start()
    while not wait([meeting], POLL_SECONDS).done:
        followers.check()
    return meeting.result()


def follow_node(config: EngineConfig) -> int:
    """The ranks of a machine that is not machine 0, until they leave in order; the exit code. When one has failed, all
    of them begin again, as rank 0's engine does: as often as that may."""
    restarts = Restarts(RestartLimit(MOST_RESTARTS + 1))  # the first start counts too
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, frame: sys.exit(0))
    try:
        while True:
            code = _follow_once(config, restarts)
            pause = restarts.pause(time.monotonic())
            if code == 0 or code == EXIT_HOPELESS or pause is None:
                return min(code, 1)
            logger.warning("a rank of machine %d has ended: beginning again in %.0f s", config.node_rank, pause)
            time.sleep(pause)
    except KeyboardInterrupt:
        return 0


def _follow_once(config: EngineConfig, restarts: Restarts) -> int:
    """The exit code of the first rank of this machine that fails, or 0. `restarts` is told what became of it."""
    first, followers = config.node_rank * config.local_ranks, Followers()
    try:
        for rank in range(first, first + config.local_ranks):
            followers.start(Join(config, rank, ""))
        code = followers.wait()
        restarts.attempted(time.monotonic())
        return code
    except OutOfResourcesError as error:
        logger.error("the ranks of machine %d cannot be started: %s", config.node_rank, error)
        restarts.refused(time.monotonic())
        return EXIT_FAILED
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
        """Raises `RankLostError` if one of them has ended."""
        for rank, started in self._spawned.items():
            code = started.process.poll()
            if code is not None:
                raise RankLostError(f"rank {rank} {describe_exit(code)}")

    def wait(self) -> int:
        """Until all have left in order, or one has not; its exit code then."""
        while True:
            codes = [started.process.poll() for started in self._spawned.values()]
            failed = [code for code in codes if code]
            if failed:
                return EXIT_HOPELESS if EXIT_HOPELESS in failed else EXIT_FAILED
            if None not in codes:
                return 0
            time.sleep(POLL_SECONDS)

    def end(self, they_leave: bool) -> None:
        """Give them a moment if they leave by themselves; then make sure that all of them are gone."""
        for started in self._spawned.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.process.wait(LEAVE_SECONDS if they_leave else 0)
            started.end()
        self._spawned.clear()
