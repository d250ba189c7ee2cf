"""One GPU as torch shows it: what it is, and the copies between it and the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flover.errors import ConfigError
from flover.ops import DType, HostArray, Pages
from flover.ops.cuda.launch import check_launcher
from flover.ops.cuda.weight import FORMATS, zeros

NoDeviceMemory = torch.OutOfMemoryError
_ALIGNMENT = 16
"""Every array of a packed copy begins at a multiple of so many bytes."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or in tests a device in its place, of the `count` that torch sees. `free_bytes` are those that no process
    uses."""

    device: torch.device
    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int
    count: int = 1


def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU of that number, or the last one if there are fewer; None if torch finds none. torch numbers those that
    CUDA_VISIBLE_DEVICES leaves it. This thread's kernels are launched on it from now on. Raises `ConfigError` for one
    that cannot be used: it has no memory for this process, is another process's alone, or Triton cannot launch on it.
    """
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    device = torch.device("cuda", min(index, count - 1))
    try:
        torch.cuda.set_device(device)
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        check_launcher()
    except Exception as error:  # of the driver, or of the compiler that Triton calls
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--device cuda: GPU {device.index} cannot be used: {reason}") from error
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return Gpu(device, name, capability, total_bytes, free_bytes, count)


def new_pages(
    key_shape: tuple[int, ...], value_shape: tuple[int, ...], page_size: int, dtype: DType, device: torch.device
) -> Pages:
    """Memory for the keys and values of a layer, zeros. Raises `MemoryError`."""
    kind = torch.int8 if dtype == "int8" else FORMATS[dtype]
    pages = Pages(zeros(key_shape, kind, device), zeros(value_shape, kind, device), page_size, dtype)
    if dtype != "int8":
        return pages
    scales = (zeros(shape[:-1], torch.float32, device) for shape in (key_shape, value_shape))
    return Pages(pages.keys, pages.values, page_size, dtype, *scales)


def new_array(shape: tuple[int, ...], kind: str, device: torch.device) -> Tensor:
    """Memory for numbers of that type of numpy and torch, with whatever is in it."""
    return torch.empty(shape, dtype=getattr(torch, kind), device=device)


def to_device(arrays: Mapping[str, HostArray], device: torch.device) -> dict[str, Tensor]:
    """The same arrays on the device, by one copy from one pinned buffer. Does not wait for it."""
    sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays.values()]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    bounds = np.cumsum([0, *sizes]).tolist()
    host = packed.numpy()
    for first, array in zip(bounds[:-1], arrays.values(), strict=True):
        host[first : first + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    moved = packed.to(device, non_blocking=True)
    return {
        name: moved[first : first + array.nbytes].view(getattr(torch, str(array.dtype))).view(array.shape)
        for first, (name, array) in zip(bounds[:-1], arrays.items(), strict=True)
    }


class Fetched:
    """Tensors on their way to the host, by one copy."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Starts the copy behind what the device has been asked for so far, and does not wait."""
        self._tensors = tensors
        packed = torch.cat([one.contiguous().view(-1).view(torch.uint8) for one in tensors])
        self._host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=packed.is_cuda)
        self._host.copy_(packed, non_blocking=True)
        self._arrived = torch.cuda.current_stream(packed.device).record_event() if packed.is_cuda else None

    def wait(self) -> list[HostArray]:
        """The same numbers on the host, as soon as they are there: not for what the device was asked for since."""
        if self._arrived is not None:
            self._arrived.synchronize()
        bounds = np.cumsum([0, *(one.nbytes for one in self._tensors)]).tolist()
        return [
            self._host.numpy()[first:end].view(str(one.dtype).removeprefix("torch.")).reshape(one.shape)
            for one, first, end in zip(self._tensors, bounds, bounds[1:], strict=False)
        ]


def to_host(tensors: Sequence[Tensor]) -> list[HostArray]:
    """The same numbers on the host, when the device is done with them, by one copy."""
    return Fetched(tensors).wait()


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Rows of the second behind those of the first."""
    return torch.cat((first, second))


def unused_bytes(device: torch.device) -> int:
    """Memory that torch keeps for later, that of captured graphs included, which it does not give back."""
    if device.type != "cuda":
        return 0
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def free_unused(device: torch.device) -> None:
    """Give memory back that torch keeps for later and nothing uses."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
