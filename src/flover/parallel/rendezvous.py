"""How the ranks of a model find each other: through a file on one machine, through machine 0's port on several."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import msgspec

from flover.config import EngineConfig, flag_name
from flover.errors import ConfigError, EngineDeadError
from flover.parallel.group import MEET, GlooGroup, dist

LOOPBACK = "127.0.0.1"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PER_MACHINE = frozenset({"node_rank", "num_threads", "cpu_isa", "download_dir", "model", "tokenizer", "trace"})
"""What need not be the same everywhere."""


def join(config: EngineConfig, rank: int, file: str) -> GlooGroup:
    """Meet the other ranks; `file` is where those of one machine meet.

    Raises `EngineDeadError` if they do not come, and `ConfigError` if this machine has other settings than machine 0.
    """
    size = config.tensor_parallel_size
    if config.nnodes == 1:
        store, address, local_size = dist.FileStore(file, size), LOOPBACK, size
    else:
        store, address = _meet_machines(config, rank), _own_address(config)
        _agree(store, config, rank)
        local_size = _count_neighbours(store, rank, size, this_machine())
    timeout = config.distributed_timeout_seconds
    return GlooGroup(store, rank, size, local_size=local_size, address=address, timeout=timeout)


def this_machine() -> str:
    """What tells this machine from others, and a container from its neighbours."""
    return f"{socket.gethostname()} {BOOT_ID.read_text().strip()}"


def _count_neighbours(store: Any, rank: int, size: int, machine: str) -> int:
    """How many ranks are on this machine, which need not be as many as elsewhere."""
    store.set(f"machine-{rank}", machine)
    return sum(store.get(f"machine-{other}").decode() == machine for other in range(size))


def _meet_machines(config: EngineConfig, rank: int) -> Any:
    where, leads = (config.master_addr, config.master_port), rank == 0
    try:
        # Bound here, because torch would listen on every interface there is.
        listening = socket.create_server(where).detach() if leads else None
        return dist.TCPStore(
            *where,
            config.tensor_parallel_size,
            is_master=leads,
            timeout=MEET,
            wait_for_workers=False,
            master_listen_fd=listening,
        )
    except (OSError, RuntimeError) as error:
        doing = "listen on" if leads else "reach"
        raise EngineDeadError(f"rank {rank} cannot {doing} {where[0]}:{where[1]}: {error}") from error


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
