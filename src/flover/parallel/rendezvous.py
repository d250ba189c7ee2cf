"""How the ranks of a model find each other: through a file on one machine, through machine 0's port on several."""

from __future__ import annotations

import dataclasses
import socket
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from flover.config import EngineConfig, flag_name
from flover.errors import ConfigError, RankLostError
from flover.parallel.gloo import dist
from flover.parallel.group import GlooGroup
from flover.parallel.rank_group import INIT_TIMEOUT, RankGroup

LOOPBACK = "127.0.0.1"
AGAIN_SECONDS = 0.2
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PER_MACHINE = frozenset({"node_rank", "num_threads", "cpu_isa", "download_dir", "model", "tokenizer", "trace"})
"""What need not be the same everywhere."""


class NotMetError(RankLostError):
    """There is no rank 0 where it should be."""


def join(config: EngineConfig, rank: int, file: str) -> tuple[RankGroup, Any]:
    """Meet the other ranks; `file` is where those of one machine meet. Returns the group (of `config.device`), and the
    store that rank 0 keeps for the ranks of several machines (None on one).

    Raises `RankLostError` if rank 0 is not there within `INIT_TIMEOUT` or the others do not come, and `ConfigError` if
    this machine has other settings than machine 0.
    """
    size = config.tensor_parallel_size
    if config.nnodes == 1:
        return _new_group(config, dist.FileStore(file, size), rank, size, LOOPBACK), None
    store, address = _meet_machines(config, rank), _own_address(config)
    try:
        _agree(store, config, rank)
        local_size = _count_neighbours(store, rank, size, this_machine())
    except RuntimeError as error:
        raise RankLostError(f"rank {rank} has lost rank 0 while all of them met: {error}") from error
    return _new_group(config, store, rank, local_size, address), store


def _new_group(config: EngineConfig, store: Any, rank: int, local_size: int, address: str) -> RankGroup:
    """The one for the arrays of the device."""
    size, timeout = config.tensor_parallel_size, config.distributed_timeout_seconds
    if config.device != "cuda":
        return GlooGroup(store, rank, size, local_size=local_size, address=address, timeout=timeout)
    from flover.parallel.device_group import DeviceGroup
    from flover.parallel.nccl import connect_nccl

    connect_model = partial(connect_nccl, index=config.local_rank(rank), timeout=INIT_TIMEOUT)

    return DeviceGroup(
        store, rank, size, connect_model, local_size=local_size, address=address, timeout=timeout,
        in_order=config.batch_invariant,
    )  # fmt: skip


def this_machine() -> str:
    """What tells this machine from others, and a container from its neighbours."""
    return f"{socket.gethostname()} {BOOT_ID.read_text().strip()}"


def _count_neighbours(store: Any, rank: int, size: int, machine: str) -> int:
    """How many ranks are on this machine, which need not be as many as elsewhere."""
    store.set(f"machine-{rank}", machine)
    return sum(store.get(f"machine-{other}").decode() == machine for other in range(size))


def _meet_machines(config: EngineConfig, rank: int) -> Any:
    where, until = (config.master_addr, config.master_port), time.monotonic() + INIT_TIMEOUT.total_seconds()
    if rank == 0:
        try:
            # Bound here, because torch would listen on every interface there is.
            listening = socket.create_server(where).detach()
            return _store(config, timeout=INIT_TIMEOUT, is_master=True, master_listen_fd=listening)
        except (OSError, RuntimeError) as error:
            raise NotMetError(f"rank 0 cannot listen on {where[0]}:{where[1]}: {error}") from error
    while True:
        left = until - time.monotonic()
        problem = "it has been there already"
        try:
            store = _store(config, timeout=timedelta(seconds=max(1.0, left)), is_master=False)
            if store.add(f"here-{rank}", 1) == 1:
                store.set_timeout(INIT_TIMEOUT)
                return store
            # It is the store of a group that is about to end.
            del store
        except RuntimeError as error:  # it has ended just now, or there is none
            problem = str(error)
        if left <= 0:
            raise NotMetError(f"rank {rank} cannot meet rank 0 at {where[0]}:{where[1]}: {problem}")
        time.sleep(AGAIN_SECONDS)


def _store(config: EngineConfig, **options: Any) -> Any:
    size = config.tensor_parallel_size
    return dist.TCPStore(config.master_addr, config.master_port, size, wait_for_workers=False, **options)


def _own_address(config: EngineConfig) -> str:
    """The address of this machine on the way to machine 0. No packet is sent."""
    if config.node_rank == 0:
        return config.master_addr
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((config.master_addr, config.master_port))
        return str(sock.getsockname()[0])


def _agree(store: Any, config: EngineConfig, rank: int) -> None:
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _PER_MACHINE}
    if rank == 0:
        store.set("settings", msgspec.json.encode(settings).decode())
        return
    leading = msgspec.json.decode(store.get("settings"))
    for name, value in settings.items():
        if leading.get(name) != value:
            raise ConfigError(
                f"{flag_name(name)} is {value!r} on machine {config.node_rank} and {leading.get(name)!r} on machine 0"
            )
