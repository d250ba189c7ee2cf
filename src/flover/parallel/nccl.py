"""How a group of NCCL is made. It has not run yet: no machine with two GPUs was at hand."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

from flover.errors import ConfigError, RankLostError
from flover.parallel.gloo import dist


def check_nccl() -> None:
    """Raises `ConfigError` if this torch has none."""
    if not dist.is_nccl_available():
        raise ConfigError(f"several ranks on GPUs need a torch that was built with NCCL, got torch {torch.__version__}")


def connect_nccl(store: Any, rank: int, size: int, index: int, timeout: timedelta) -> Any:
    """The backend of `size` ranks that meet at `store` within `timeout`; this one has the GPU of number `index`.
    The communicator is made here: its memory is gone when what is left for weights and pages is measured, and no
    collective that is captured is the first.

    torch watches the collectives that it launches, but not those of a captured forward: it ends the process when one
    takes longer than `timeout`. `Watchdog` has the shorter one.
    """
    check_nccl()
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    device = torch.device("cuda", index)
    try:
        with torch.cuda.device(device):
            backend = dist.ProcessGroupNCCL(dist.PrefixStore("nccl", store), rank, size, options)
            backend.eager_connect_single_device(device)
    except RuntimeError as error:
        raise RankLostError(f"rank {rank} cannot reach the other ranks: {error}") from error
    return backend
