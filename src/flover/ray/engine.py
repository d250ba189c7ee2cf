"""An engine that Ray places: `python -m flover.ray.engine FD` is one for the server at the other end of socket FD, and
a relay to the engine process that runs on the node that Ray has chosen.

Each rank gets an actor (`rank_actor.py`), the actors a placement group, and the ranks meet as those of several nodes
do. This process is the driver of a Ray job: when it ends, however it ends, Ray ends the actors, and their processes
with them. It ends when the server does or when one of the ranks has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from flover.config import EngineConfig, keep_ray_quiet, read_environment
from flover.errors import ConfigError, EngineError
from flover.ipc import wire
from flover.ipc.messages import Failed, Start
from flover.ipc.signals import ENDING
from flover.parallel.frames import Join
from flover.ray.rank_actor import RankActor

CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 10.0
"""How often the log says that Ray still waits for free CPUs."""
LAST_MESSAGE_SECONDS = 2.0
"""Time for rank 0 to say what it knows of the end of another rank."""
SHUTDOWN_SECONDS = 3.0
LEAVE = signal.SIGUSR1
"""Ends the main thread, whatever it waits for."""
CHUNK_BYTES = 2**20
THREADS_PER_RANK = 1
"""Without --num-threads: what is asked of Ray is what is used, so not all cores of a node."""
EXIT_FAILED = 1

logger = logging.getLogger("flover.ray")


class Relay:
    """One engine's way through Ray. `sock` leads to the server."""

    def __init__(self, sock: socket.socket, config: EngineConfig) -> None:
        self._sock = sock
        self._threads = config.num_threads or THREADS_PER_RANK
        self._config = config
        self._actors: list[Any] = []
        self._placed = threading.Event()
        self._ended: queue.SimpleQueue[tuple[int, EngineError | None]] = queue.SimpleQueue()
        """Ranks in the order of their ends; None for one whose process has ended, else what became of it."""

    def run(self) -> int:
        """Serve until the engine ends; the exit code. Raises `ConfigError` and `EngineError` before it begins."""
        threading.Thread(target=self._from_server, name="server", daemon=True).start()
        size = self._config.tensor_parallel_size
        self._actors = _place_actors(size, self._threads)
        self._start()
        for rank in range(size):
            threading.Thread(target=self._from_rank, args=(rank,), name=f"rank {rank}", daemon=True).start()
        self._placed.set()
        return self._wait()

    def _start(self) -> None:
        size = self._config.tensor_parallel_size
        address = ray.get(self._actors[0].address.remote())
        config = dataclasses.replace(
            self._config,
            model=on_any_node(self._config.model),
            num_threads=self._threads,
            device="cpu",  # Ray has reserved no GPU
            distributed_executor_backend="mp",
            data_parallel_size=1,  # other engines have nodes of their own
            nnodes=size,
            master_addr=address,
            master_port=ray.get(self._actors[0].free_port.remote(address)),
        )
        starting = [self._actors[0].start.remote("flover.service.process", wire.encode(Start(config)))]
        for rank in range(1, size):
            join = Join(dataclasses.replace(config, node_rank=rank), rank, "")
            first = wire.frame(msgspec.msgpack.encode(join))
            starting.append(self._actors[rank].start.remote("flover.parallel.follower", first))
        ray.get(starting)

    def _from_rank(self, rank: int) -> None:
        ended = None
        try:
            for frame in self._actors[rank].read.options(num_returns="streaming").remote():
                self._sock.sendall(ray.get(frame))
        except ray.exceptions.RayError as error:
            ended = EngineError(f"rank {rank} is gone with its node or actor: {_first_line(error)}")
        except OSError as error:
            ended = EngineError(f"the server cannot be reached: {error}")
        finally:
            self._ended.put((rank, ended))

    def _from_server(self) -> None:
        """The end of the socket means that the server is dead, or needs no engine any more."""
        with contextlib.suppress(OSError):
            while data := self._sock.recv(CHUNK_BYTES):
                if not self._placed.is_set():
                    break  # before the engine is ready, a server sends nothing but `Stop`
                try:
                    ray.get(self._actors[0].write.remote(data))
                except ray.exceptions.RayError:
                    return  # `_from_rank` reports its end
        os.kill(os.getpid(), LEAVE)

    def _wait(self) -> int:
        """Until one rank has ended, and rank 0, which notices it, has said so."""
        rank, error = self._ended.get()
        reason = error or EngineError(f"rank {rank} has ended")
        with contextlib.suppress(queue.Empty):
            while rank > 0:
                rank, error = self._ended.get(timeout=LAST_MESSAGE_SECONDS)
        if rank > 0 or error is not None:
            raise reason
        try:
            return int(ray.get(self._actors[0].exit_code.remote(), timeout=SHUTDOWN_SECONDS))
        except ray.exceptions.RayError:
            return EXIT_FAILED


def _connect() -> bool:
    """Join the cluster that the environment names, or the one that this machine is in; without either start one, which
    is then True. Raises `ConfigError`."""
    named = read_environment().ray_address
    if named is not None:
        _check_reachable(named)
    try:
        ray.init(address=named or "auto")
        _ignore_signals()
        return False
    except ConnectionError as error:
        if named is not None:
            raise ConfigError(f"there is no Ray cluster at RAY_ADDRESS {named}: {_first_line(error)}") from error
    logger.warning("no Ray cluster runs on this machine: starting one, which ends with this server")
    keep_ray_quiet()
    ray.init(address="local", include_dashboard=False)
    _ignore_signals()
    return True


def _check_reachable(address: str) -> None:
    """Ray itself would end this process if nothing answers there. Raises `ConfigError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in host:
        raise ConfigError(f"RAY_ADDRESS must be HOST:PORT of a cluster that this machine is in, got {address}")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(f"there is no Ray cluster at RAY_ADDRESS {address}: {error}") from error


def _place_actors(count: int, cpus: int) -> list[Any]:
    """An actor for each rank, as close together as there are free CPUs; waits for them. Raises `ConfigError`."""
    alone = _connect()
    have = ray.cluster_resources().get("CPU", 0)
    if alone and have < count * cpus:
        raise ConfigError(
            f"--tensor-parallel-size {count} needs {count * cpus} CPUs ({cpus} each, --num-threads), "
            f"and the only node of this Ray cluster has {have:g}"
        )
    group = placement_group([{"CPU": cpus}] * count, strategy="PACK")
    while not group.wait(PATIENCE_SECONDS):
        free = ray.available_resources().get("CPU", 0)
        logger.warning("Ray has no free CPUs yet for %d x %d CPUs; %g of %g are free", count, cpus, free, have)
    return [
        ray.remote(RankActor)
        .options(
            num_cpus=cpus,
            max_concurrency=2,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        .remote()
        for rank in range(count)
    ]


def on_any_node(model: str) -> str:
    """A directory by its whole path: nodes work elsewhere. Other names are names everywhere."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.is_dir() else model


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _ignore_signals() -> None:
    """The server decides what they mean. Ray has a handler of its own, and started processes would inherit that they
    are ignored."""
    for number in ENDING:
        signal.signal(number, lambda number, frame: None)


def _end(sock: socket.socket, failed: Failed | None) -> None:
    """Leave the cluster, then say why, in this order: a server that is told of a failure kills this process at
    once. A cluster that does not let go is left by force."""

    def leave() -> None:
        _send(sock, failed)
        os._exit(EXIT_FAILED)

    forcing = threading.Timer(SHUTDOWN_SECONDS, leave)
    forcing.daemon = True
    forcing.start()
    ray.shutdown()
    forcing.cancel()
    _send(sock, failed)


def _send(sock: socket.socket, failed: Failed | None) -> None:
    if failed is not None:
        with contextlib.suppress(OSError):
            sock.sendall(wire.encode(failed))


def main(arguments: Sequence[str]) -> int:
    """Serve the server on the file descriptor that `arguments` names; returns the exit code."""
    descriptor = int(arguments[-1])
    os.set_inheritable(descriptor, False)
    _ignore_signals()
    signal.signal(LEAVE, lambda number, frame: sys.exit(0))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with socket.socket(fileno=descriptor) as sock:
        body = wire.receive(sock)
        message = None if body is None else wire.to_engine_decoder()(body)
        if not isinstance(message, Start):
            return EXIT_FAILED
        failed = None
        try:
            return Relay(sock, message.config).run()
        except (ConfigError, EngineError, ray.exceptions.RayError) as error:
            failed = Failed("config" if isinstance(error, ConfigError) else "engine", _first_line(error))
            return EXIT_FAILED
        finally:
            _end(sock, failed)


if __name__ == "__main__":
    # Ray's threads and those of this module may stand anywhere: nothing of theirs is waited for.
    try:
        code = main(sys.argv[1:])
    except SystemExit:
        code = 0
    except BaseException:
        logger.exception("the relay to Ray stops")
        code = EXIT_FAILED
    logging.shutdown()
    os._exit(code)
