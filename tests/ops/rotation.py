"""What the rotation of int8 and int4 is (csrc/weight.h), in plain torch and in the kernels' order of additions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """The matrix of 1 and -1, by its definition: entry (i, j) counts the bits that i and j share."""
    return torch.tensor([[(-1.0) ** (i & j).bit_count() for j in range(size)] for i in range(size)])


def block_of(inputs: int) -> int:
    """How many neighbours are rotated together."""
    return max(size for size in (1, 2, 4, 8, 16, 32, 64, 128) if inputs % size == 0)


def rotated(x: Tensor) -> Tensor:
    """Every block of each row times the matrix: round by round, with the bits that the kernels have."""
    step, size = 1, block_of(x.shape[-1])
    while step < size:
        first, second = x.unflatten(-1, (x.shape[-1] // (2 * step), 2, step)).unbind(-2)
        x = torch.stack((first + second, first - second), -2).reshape(x.shape)
        step *= 2
    return x


def weight_factor(inputs: int) -> float:
    """What rotated weights are multiplied with."""
    return 2.0 ** -(int(math.log2(block_of(inputs))) // 2)


def activation_factor(inputs: int) -> float:
    """What rotated activations are multiplied with: both factors undo two rotations."""
    return 1 / block_of(inputs) / weight_factor(inputs)
