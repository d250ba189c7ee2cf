"""Memory for matrices of any format, and matrices in formats of their own that are used as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from flover.errors import ConfigError, InvariantError
from flover.ops import NewWeight, Part, Weight, WeightFormat
from flover.ops.cuda.quantized import QUANTIZED, QuantizedWeight
from flover.ops.cuda.weight import FORMATS, CudaWeight, zeros

Matrix: TypeAlias = CudaWeight | QuantizedWeight


@dataclass(frozen=True, slots=True)
class JoinedWeight:
    """Matrices of the same inputs whose outputs lie one after another, the first ones at `starts`. Not gated."""

    members: tuple[Matrix, ...]
    starts: tuple[int, ...]
    shape: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        return sum(member.num_bytes for member in self.members)

    def store(self, first: int, rows: npt.NDArray[np.float32]) -> None:
        """Rows of one member."""
        member, start = self._member(first, len(rows))
        member.store(first - start, rows)

    def store_blocks(self, first: int, rows: npt.NDArray[np.uint8], order: npt.NDArray[np.int32] | None = None) -> None:
        """Rows of one member, as a file has them."""
        member, start = self._member(first, len(rows))
        member.store_blocks(first - start, rows, order)

    def _member(self, first: int, count: int) -> tuple[Matrix, int]:
        for member, start in zip(self.members, self.starts, strict=True):
            if start <= first and first + count <= start + member.shape[0]:
                return member, start
        raise InvariantError(f"rows {first} to {first + count} are not those of one of the joined weights")


def join(weights: Sequence[Weight]) -> JoinedWeight:
    """One matrix that has the outputs of these one after another."""
    members = tuple(cast(Sequence[Matrix], weights))
    sizes = {member.shape[1] for member in members}
    if len(sizes) != 1 or any(member.gated for member in members):
        raise InvariantError("joined weights have the same inputs and no gate")
    *starts, end = accumulate((member.shape[0] for member in members), initial=0)
    return JoinedWeight(members, tuple(starts), (end, sizes.pop()))


def _make(
    device: torch.device,
    activations: torch.dtype,
    shape: tuple[int, int],
    weight_format: WeightFormat,
    gated: bool,
    part: Part | None = None,
) -> Matrix:
    if weight_format in QUANTIZED:
        return QuantizedWeight(device, activations, shape, weight_format, gated, part)
    if weight_format not in FORMATS:
        raise ConfigError(f"a GPU keeps no weights in {weight_format}")
    return CudaWeight(zeros(shape, FORMATS[weight_format], device), gated, part)


def weights_on(device: torch.device, activations: torch.dtype) -> NewWeight:
    """Memory for matrices on that device, for activations of that type."""
    return partial(_make, device, activations)
