"""How a group of NCCL is made. It has not run yet: no machine with two GPUs was at hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

from flover.errors import ConfigError
from flover.parallel.gloo import dist


def check_nccl() -> None:
    """Raises `ConfigError` if this torch has none."""
    if not dist.is_nccl_available():
        raise ConfigError(f"several ranks on GPUs need a torch that was built with NCCL, got torch {torch.__version__}")


def connect_nccl(store: Any, rank: int, size: int, device: torch.device, timeout: timedelta) -> Any:
    """The backend of `size` ranks that meet at `store`, of which this one has `device`, the current one. The first
    collective makes the communicator, and finds out if a rank is not there within `timeout`.

    torch watches the collectives that it launches, but not those of a captured forward: it ends the process when one
    takes longer than `timeout`. `Watchdog` has the shorter one.
    """
    check_nccl()
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    backend = dist.ProcessGroupNCCL(dist.PrefixStore("nccl", store), rank, size, options)
    backend.eager_connect_single_device(device)
    return backend
