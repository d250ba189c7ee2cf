"""Data-parallel workers: one single-threaded process per core that meet once per step.

Threads inside one process meet after every operation, which is slow on a busy machine.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed


@dataclass(frozen=True)
class Team:
    """This process's place among the workers."""

    rank: int
    size: int

    def sum(self, values: torch.Tensor) -> None:
        """Replace `values` by their sum over all workers."""
        if self.size > 1:
            distributed.all_reduce(values)


def _join(work: Callable[[Team], None], team: Team, meeting_point: str) -> None:
    distributed.init_process_group("gloo", init_method=meeting_point, rank=team.rank, world_size=team.size)
    try:
        work(team)
    finally:
        distributed.destroy_process_group()


def run_together(work: Callable[[Team], None], size: int) -> None:
    """Run `work` in this process as rank 0 and in `size - 1` forked copies of it."""
    if size == 1:
        work(Team(0, 1))
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting_point = Path(folder, "meet").as_uri()
        fork = multiprocessing.get_context("fork")
        others = [fork.Process(target=_join, args=(work, Team(rank, size), meeting_point)) for rank in range(1, size)]
        for process in others:
            process.start()
        _join(work, Team(0, size), meeting_point)
        for process in others:
            process.join()
