"""What torch does not promise: how a Gloo group is made for one address, and how its threads are scheduled.

Known to work from torch 2.6 to 2.13. `check_torch` refuses an older one, and a newer one whose names differ.
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from flover.errors import ConfigError, RankLostError

dist: Any = torch.distributed
"""Its names are bound when it is imported, where no type checker sees them."""
OLDEST_TORCH = (2, 6)
GLOO_THREAD = "gloo_tcp_loop"
_PRIVATE = ("_devices", "_timeout")


def check_torch(version: str = torch.__version__) -> None:
    """Raises `ConfigError` if this torch makes Gloo groups in another way than `connect` does."""
    found = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    options = getattr(getattr(dist, "ProcessGroupGloo", None), "_Options", None)
    if found < OLDEST_TORCH or not all(hasattr(options, name) for name in _PRIVATE):
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ConfigError(f"several ranks need torch {oldest} or newer with Gloo as in 2.13, got torch {version}")


def connect(store: Any, name: str, rank: int, size: int, address: str, patience: timedelta) -> Any:
    """A group of `size` ranks that meet at `store` under `name`; `address` is where the others reach this one. Raises
    `ConfigError` for a torch that it does not know, `RankLostError` if the others do not come within `patience`."""
    check_torch()
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = patience
    try:
        return dist.ProcessGroupGloo(dist.PrefixStore(name, store), rank, size, options)
    except RuntimeError as error:
        raise RankLostError(f"rank {rank} cannot reach the other ranks: {error}") from error


def schedule_threads() -> None:
    """Let Gloo's threads take a core when it is free, not when they wake.

    The thread that reads a connection asks for its lock again and again while another thread writes (Gloo,
    transport/tcp/pair.cc, `handleEvents`). Where it woke on the writer's core it would keep the writer from ending for
    as long as the scheduler lets it: 4 ms, at 0.2 ms that an exchange takes.
    """
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may have ended; a sandbox may forbid it, which costs speed only
            if (task / "comm").read_text().strip() == GLOO_THREAD:
                os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
