"""Matrices as the GPU keeps them: plain float32, bfloat16 or float16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import Part, WeightFormat

FORMATS: Mapping[WeightFormat, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class CudaWeight:
    """A matrix [out, in], inputs one after another."""

    data: Tensor
    gated: bool
    part: Part | None
    segments: int = 1  # of equally many inputs, each summed by itself where the order of sums is that of any ranks

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.data.nbytes

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Copy to the device, rounded to the weight's type there."""
        start = self.part.start if self.part else 0
        mine = np.require(rows[:, start : start + self.shape[1]], requirements=("C", "W"))
        self.data[first : first + len(mine)] = torch.from_numpy(mine).to(self.data.device)

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """There are no blocks here. Raises `InvariantError`."""
        raise InvariantError("weights on a GPU have no blocks")


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of the device. Raises `MemoryError` where it has too little."""
    try:
        return torch.zeros(shape, dtype=dtype, device=device)
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
