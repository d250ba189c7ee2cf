"""Which kind of device `--device` comes to on this machine. torch is not imported where there is no GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from pathlib import Path

from flover.config import EngineConfig
from flover.executor.cpu import CpuPlatform
from flover.executor.platform import Platform
from flover.extras import need

logger = logging.getLogger(__name__)

_DRIVERS = ("dev/nvidiactl", "dev/dxg")
"""What NVIDIA's driver makes, on Linux and on WSL."""


def resolve_device(config: EngineConfig, root: Path = Path("/")) -> EngineConfig:
    """`config` with `cpu` or `cuda` instead of `auto`, and on a GPU with asynchronous scheduling unless that is off or
    excluded by speculation."""
    device = _usable(root) if config.device == "auto" else config.device
    overlaps = config.async_scheduling
    if overlaps is None:
        overlaps = device == "cuda" and config.speculative_config is None
    return dataclasses.replace(config, device=device, async_scheduling=overlaps)


def new_platform(config: EngineConfig) -> Platform:
    """The platform of a resolved device. Raises `ConfigError` if it cannot be used."""
    if config.device != "cuda":
        return CpuPlatform(config)
    for module in ("torch", "triton"):
        need(module, "cuda", "--device cuda")
    from flover.executor.cuda import CudaPlatform

    return CudaPlatform(config)


def _usable(root: Path) -> str:
    if not any((root / one).exists() for one in _DRIVERS):
        return "cpu"
    missing = [module for module in ("torch", "triton") if importlib.util.find_spec(module) is None]
    if missing:
        logger.warning("there is a GPU, but the CPU is used: pip install 'flover[cuda]' (%s is missing)", missing[0])
        return "cpu"
    from flover.ops.cuda.device import find_gpu

    if find_gpu() is None:
        logger.warning("there is a GPU, but the CPU is used: torch cannot use it")
        return "cpu"
    return "cuda"
