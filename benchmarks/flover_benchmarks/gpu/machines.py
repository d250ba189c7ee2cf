"""GPUs by name: the figures of their data sheets, dense and without sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from flover.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: bytes per second of its memory, bfloat16 operations per second of its tensor cores, bytes of memory."""

    name: str
    bandwidth: float
    peak: float
    memory: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-80GB", 2.039e12, 312e12, 80e9),
        Gpu("H100-SXM", 3.35e12, 989e12, 80e9),
        Gpu("H200", 4.8e12, 989e12, 141e9),
        Gpu("B200", 8.0e12, 2250e12, 180e9),
        Gpu("L4", 0.3e12, 121e12, 24e9),
        Gpu("L40S", 0.864e12, 362e12, 48e9),
        Gpu("RTX-4090", 1.008e12, 165e12, 24e9),
        Gpu("RTX-5090", 1.792e12, 209e12, 32e9),
    )
}


def gpu_named(name: str) -> Gpu:
    """The first GPU whose name begins so, whatever the case and what stands between: h100, a100, rtx4090. Raises
    `ConfigError` with the names there are."""
    for gpu in GPUS.values():
        if _plain(name) and _plain(gpu.name).startswith(_plain(name)):
            return gpu
    raise ConfigError(f"--gpu knows {', '.join(GPUS)}, not {name!r}")


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
