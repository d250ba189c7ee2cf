"""Which kind of device `--device` comes to on this machine. Imports are made where they are used: the server asks too,
and torch is for a GPU alone."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.extras import need

if TYPE_CHECKING:
    from flover.executor.platform import Platform

logger = logging.getLogger(__name__)

_DRIVERS = ("dev/nvidiactl", "dev/dxg")
"""What NVIDIA's driver makes, on Linux and on WSL."""


def resolve_device(config: EngineConfig, root: Path = Path("/")) -> EngineConfig:
    """`config` with `cpu` or `cuda` instead of `auto`, which is a GPU if there is one that can compute the model. On a
    GPU scheduling is asynchronous unless that is off or excluded by speculation."""
    device = _usable(config, root) if config.device == "auto" else config.device
    overlaps = config.async_scheduling
    if overlaps is None:
        overlaps = device == "cuda" and config.speculative_config is None
    return dataclasses.replace(config, device=device, async_scheduling=overlaps)


def new_platform(config: EngineConfig, local_rank: int = 0) -> Platform:
    """The platform of a resolved device, for that rank of this node. Raises `ConfigError` if it cannot be used."""
    if config.device != "cuda":
        from flover.executor.cpu import CpuPlatform

        return CpuPlatform(config)
    for module in ("torch", "triton"):
        need(module, "cuda", "--device cuda")
    from flover.executor.cuda import CudaPlatform

    return CudaPlatform(config, local_rank=local_rank)


def local_platforms(config: EngineConfig) -> list[Platform]:
    """Those of all ranks on this node: a GPU for each, or the CPU that they share. Raises `ConfigError`."""
    return [new_platform(config, rank) for rank in range(config.local_ranks if config.device == "cuda" else 1)]


def _usable(config: EngineConfig, root: Path) -> str:
    if not any((root / one).exists() for one in _DRIVERS):
        return "cpu"
    from flover.model.describe import describe_model
    from flover.model.shard import Shard

    try:
        platform = new_platform(dataclasses.replace(config, device="cuda"))
        platform.check(describe_model(config, Shard(0, config.tensor_parallel_size)))
    except ConfigError as error:
        logger.warning("there is a GPU, but the CPU is used: %s", error)
        return "cpu"
    return "cuda"
