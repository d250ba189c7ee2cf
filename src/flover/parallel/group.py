"""The collectives of a model on the CPU, over Gloo: sums, the largest, a gather of the logits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flover.ops import HostArray, Reduction
from flover.ops.group import tree_sum
from flover.parallel.gloo import connect, dist, schedule_threads
from flover.parallel.rank_group import INIT_TIMEOUT, RankGroup, wait_all, with_values

GATHER_BYTES = 2**18
"""Up to so much is summed from all ranks' numbers on every rank (`GlooGroup._sum`)."""
TAG = 0


class GlooGroup(RankGroup):
    """The collectives of arrays of the host."""

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        *,
        local_size: int,
        address: str,
        timeout: float,
        init_timeout: timedelta = INIT_TIMEOUT,
    ) -> None:
        """As a `RankGroup`."""
        super().__init__(
            store, rank, size, local_size=local_size, address=address, timeout=timeout, init_timeout=init_timeout
        )
        self._model = connect(store, "model", rank, size, address, init_timeout)
        schedule_threads()

    def watch(self, check: Callable[[], None]) -> None:
        """Nothing: the connections of a rank that ends break, which ends the collective."""

    def check(self) -> None:
        """Nothing: a collective that fails raises."""

    def close(self) -> None:
        """Nothing: connections end with the object."""

    def all_reduce(self, reduction: Reduction, x: HostArray) -> None:
        """Put each number's sum or maximum over all ranks into `x`, contiguous; every rank gets the same bits."""
        own = torch.from_numpy(x)  # the same memory
        with self._counted(own):
            if reduction == "sum":
                self._sum(own)
            else:
                own.copy_(self._all_gather(own).amax(0))  # of a few numbers: one exchange, as in a small sum

    def _sum(self, x: Tensor) -> None:
        """The sum over all ranks, into `x`; every rank gets the same bits, and a number's bits depend
        on what the ranks have in its place alone.

        Gloo's reduction of more than two ranks starts at another rank in each part of `x`, so there the numbers of
        all ranks are added as a tree over neighbours (`tree_sum`). Up to `GATHER_BYTES` each rank gets all and adds
        all: one exchange. Above, each adds its slice of `x`, and the sums are exchanged: two, of as many bytes together
        as a ring needs, 2 (n - 1) / n of `x`. A sum of two is the same in any order: there Gloo reduces what is large.
        On two cores, loopback, two and four ranks: 4 KiB in 0.16 and 0.5 ms (Gloo's reduction: 0.36 and 1.8), 1 MiB in
        0.7 and 2.3 ms (0.7 and 2.4).
        """
        if self.size == 2 and x.nbytes > GATHER_BYTES:
            options = with_values(dist.AllreduceOptions(), timeout=self.patience)
            wait_all([self._model.allreduce([x], options)], self.patience)
        elif self.size == 2:
            other = torch.empty_like(x)
            self._exchange([x, x], [other, other])
            x += other
        elif x.nbytes <= GATHER_BYTES:
            x.copy_(tree_sum(list(self._all_gather(x))))
        else:
            own = tree_sum(list(self._own_slices(x)))
            self._count(own)
            x.copy_(self._all_gather(own).flatten()[: x.numel()].view_as(x))

    def _all_gather(self, x: Tensor) -> Tensor:
        """[size, *x.shape], in the order of ranks, on every rank."""
        parts = torch.empty(self.size, *x.shape)
        parts[self.rank] = x
        self._exchange([x] * self.size, list(parts))
        return parts

    def _own_slices(self, x: Tensor) -> Tensor:
        """All ranks' numbers of this rank's slice of x, [size, n]; the last slice may end in zeros."""
        each = -(-x.numel() // self.size)
        filled = torch.nn.functional.pad(x.flatten(), (0, each * self.size - x.numel())).view(self.size, each)
        slices = torch.empty_like(filled)
        slices[self.rank] = filled[self.rank]
        self._exchange(list(filled), list(slices))
        return slices

    def _exchange(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """Send every other rank its part of `outgoing`, and receive theirs into `incoming`.

        Rank to rank and not by one of Gloo's collectives: those hand the work to a thread of their own, and each
        thread that has to wake costs some 50 us.
        """
        others = [rank for rank in range(self.size) if rank != self.rank]
        coming = [self._model.recv([incoming[rank]], rank, TAG) for rank in others]
        going = [self._model.send([outgoing[rank]], rank, TAG) for rank in others]
        wait_all(coming + going, self.patience)

    def gather(self, x: HostArray, widths: Sequence[int]) -> HostArray | None:
        """On rank 0 the first widths[r] columns of every rank's `x` [S, n], in the order of ranks, side by side."""
        own = torch.from_numpy(x)
        with self._counted(own):
            if self.rank > 0:
                wait_all([self._model.send([own], 0, TAG)], self.patience)
                return None
            parts = [own, *(torch.empty_like(own) for _ in range(1, self.size))]
            wait_all([self._model.recv([parts[rank]], rank, TAG) for rank in range(1, self.size)], self.patience)
        return np.concatenate([part.numpy()[:, :n] for part, n in zip(parts, widths, strict=True)], axis=1)

    @contextlib.contextmanager
    def _counted(self, x: Tensor) -> Iterator[None]:
        """A collective that puts x in, and how long it takes."""
        began = time.perf_counter()
        self._count(x)
        yield
        self.seconds += time.perf_counter() - began
