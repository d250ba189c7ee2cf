"""What the device can do at most: copies of its memory, products of its tensor cores, launches of the host."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from flover.bench.machine import package_version
from flover.ops.cuda.device import Gpu
from flover.ops.cuda.elementwise import add
from flover_benchmarks.gpu.device import seconds_of, wait_for
from flover_benchmarks.gpu.parts import Sizes

_LAUNCHES = 200


def measure_limits(gpu: Gpu, sizes: Sizes, emit: Callable[..., None]) -> None:
    """Bytes per second of a copy (read and written), bfloat16 operations per second of a product, microseconds of the
    host for a launch, and microseconds of the smallest copy to the device and back."""
    device = gpu.device
    emit(gpu=gpu.name, capability=list(gpu.capability), memory_bytes=gpu.total_bytes, free_bytes=gpu.free_bytes)
    emit(copy_bytes_per_s=_copy(device, min(sizes.copy_bytes, gpu.free_bytes // 4)))
    emit(bf16_ops_per_s=_product(device, sizes.product_size))
    emit(launch_us=_launch(device, min(_LAUNCHES, sizes.product_size)) * 1e6)
    emit(round_trip_us=_round_trip(device) * 1e6)
    emit(torch=torch.__version__, cuda=torch.version.cuda, triton=package_version("triton"))


def _copy(device: torch.device, num_bytes: int) -> float:
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / seconds_of(device, lambda: target.copy_(source), 9)


def _product(device: torch.device, size: int) -> float:
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    y = torch.empty_like(a)
    return 2 * size**3 / seconds_of(device, lambda: torch.mm(a, b, out=y), 9)


def _launch(device: torch.device, launches: int) -> float:
    """One of many launches of a small kernel, none of which is waited for."""
    x = torch.ones((1, 64), device=device)
    add(x, x)
    wait_for(device)
    start = time.perf_counter()
    for _ in range(launches):
        add(x, x)
    seconds = (time.perf_counter() - start) / launches
    wait_for(device)
    return seconds


def _round_trip(device: torch.device) -> float:
    def trip() -> None:
        torch.zeros(16).to(device).cpu()

    return seconds_of(device, trip, 21)
