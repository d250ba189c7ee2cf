"""Muon: momentum whose matrix updates are orthogonalized, which trains small models in fewer tokens.

Hidden matrices use it; embeddings and norms are left to AdamW. The workers of a run share its arithmetic:
each one computes the updates of some matrices, and an all-reduce gives every worker all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bundled.workers import Team

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz iteration that drives all singular values of the matrix towards one."""
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = torch.div(x, x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.T if tall else x


class Muon:
    """Nesterov momentum with orthogonalized updates and decoupled weight decay."""

    def __init__(
        self, matrices: Sequence[torch.Tensor], team: Team, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        """Optimize two-dimensional parameters."""
        self.matrices = matrices
        self.team = team
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.averages = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply one update."""
        flat = torch.zeros(sum(matrix.numel() for matrix in self.matrices))
        updates = [
            piece.view_as(matrix)
            for piece, matrix in zip(torch.split(flat, [m.numel() for m in self.matrices]), self.matrices, strict=True)
        ]
        for index, matrix in enumerate(self.matrices):
            if index % self.team.size == self.team.rank and matrix.grad is not None:
                average = self.averages[index].lerp_(matrix.grad, 1 - self.momentum)
                updates[index].copy_(orthogonalize(matrix.grad.lerp(average, self.momentum)))
        self.team.sum(flat)
        for matrix, update in zip(self.matrices, updates, strict=True):
            scale = max(1.0, matrix.size(0) / matrix.size(1)) ** 0.5
            matrix.mul_(1 - lr * self.weight_decay).add_(update, alpha=-lr * scale)
