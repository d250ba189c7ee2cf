"""The device that is measured, how long it takes for something, and what it computes meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from flover.errors import ConfigError
from flover.ops.cuda.device import Gpu, find_gpu

INTERPRETER = "cpu"
"""Tensors of the CPU in the place of a GPU's: TRITON_INTERPRET=1 runs kernels on them."""
_INTERPRETER_MEMORY = 2**28


def gpu_of(device: str) -> Gpu:
    """The GPU, or what the interpreter computes on. Raises `ConfigError` if there is none."""
    if device == INTERPRETER:
        size = _INTERPRETER_MEMORY
        return Gpu(torch.device("cpu"), "Triton's interpreter", (9, 0), size, size)
    found = find_gpu()
    if found is None:
        raise ConfigError("torch finds no GPU: flover bench gpu --estimate needs none")
    return found


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, run: Callable[[], object], repeats: int) -> float:
    """The median of so many runs on the device, after two that are not counted."""
    for _ in range(2):
        run()
    found = [_event_seconds(run) if device.type == "cuda" else _clock_seconds(run) for _ in range(repeats)]
    return statistics.median(found)


def _event_seconds(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _clock_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Busy:
    """What a device did: seconds in kernels, their number, copies, and seconds of the kernels that took the longest."""

    seconds: float
    kernels: int
    copies: int
    longest: dict[str, float]


def busy_in(device: torch.device, run: Callable[[], object]) -> Busy:
    """The same of everything that `run`, in any thread, gives the device to do."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        run()
        wait_for(device)
    kernels, copies, seconds = 0, 0, dict[str, float]()
    for event in recorded.key_averages():
        if event.device_type != (DeviceType.CUDA if on_gpu else DeviceType.CPU):
            continue  # a call of the host's, which may count its kernels once more
        spent = float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        if event.key.startswith(("Memcpy", "Memset")):
            copies += event.count
        elif spent:
            kernels += event.count
            seconds[event.key] = seconds.get(event.key, 0.0) + spent
    longest = sorted(seconds, key=lambda name: -seconds[name])[:10]
    return Busy(sum(seconds.values()), kernels, copies, {name[:80]: seconds[name] for name in longest})
