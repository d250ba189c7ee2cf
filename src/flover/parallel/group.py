"""The collectives of one group of ranks, over Gloo: sums and a gather for the model, frames for the plans.

Nothing global of torch.distributed is touched: a program that embeds Flover keeps its own process group.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from flover.errors import RankLostError
from flover.ops import HostArray, Reduction
from flover.parallel.gloo import connect, dist, schedule_threads

MEET = timedelta(minutes=5)
"""Time for all ranks to join: processes start, libraries load."""
NEVER = timedelta(days=365)
"""Followers wait for the next plan as long as the engine is idle; the end of rank 0 they notice by its socket."""
FRAME_BYTES = 4096
"""Frames up to so many bytes are sent in one piece, longer ones in two."""
GATHER_BYTES = 2**18
"""Up to so much is summed from all ranks' numbers on every rank (`GlooGroup._sum`)."""
TAG = 0
_LENGTH_BYTES = 8


class GlooGroup:
    """The ranks of one model, seen from rank `rank` of `size`; `local_size` of them are on this machine.

    `address` is where the others reach this rank. A collective that a rank does not join within `timeout` seconds, and
    one whose rank has died, raise `RankLostError`: the group is of no use after it.
    """

    def __init__(self, store: Any, rank: int, size: int, *, local_size: int, address: str, timeout: float) -> None:
        self.rank = rank
        self.size = size
        self.local_size = local_size
        self.calls = 0
        """Collectives of the model so far, the bytes that this rank put into them, and the seconds it spent in them,
        waiting for the others included."""
        self.num_bytes = 0
        self.seconds = 0.0
        self._model = connect(store, "model", rank, size, address, MEET)
        self._plans = connect(store, "plans", rank, size, address, MEET)
        # The timeout of a group is for its making; collectives bring their own.
        patience = timedelta(seconds=timeout)
        self._patience = patience
        self._sum_options = _with(dist.AllreduceOptions(), timeout=patience)
        self._least = _with(dist.AllreduceOptions(), timeout=NEVER, reduceOp=dist.ReduceOp.MIN)
        schedule_threads()

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
        all ranks are added in the order of ranks. Up to `GATHER_BYTES` each rank gets all and adds all: one exchange.
        Above, each adds its slice of `x`, and the sums are exchanged: two, of as many bytes together as a ring needs,
        2 (n - 1) / n of `x`. A sum of two is the same in any order: there Gloo reduces what is large. On two cores,
        loopback, two and four ranks: 4 KiB in 0.16 and 0.5 ms (Gloo's reduction: 0.36 and 1.8), 1 MiB in 0.7 and 2.3
        ms (0.7 and 2.4).
        """
        if self.size == 2 and x.nbytes > GATHER_BYTES:
            _wait([self._model.allreduce([x], self._sum_options)], self._patience)
        elif self.size == 2:
            other = torch.empty_like(x)
            self._exchange([x, x], [other, other])
            x += other
        elif x.nbytes <= GATHER_BYTES:
            x.copy_(_added(self._all_gather(x)))
        else:
            own = _added(self._own_slices(x))
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
        _wait(coming + going, self._patience)

    def gather(self, x: HostArray) -> list[HostArray] | None:
        """All ranks' `x`, of one shape, in the order of ranks, on rank 0; None on the others."""
        own = torch.from_numpy(x)
        with self._counted(own):
            if self.rank > 0:
                _wait([self._model.send([own], 0, TAG)], self._patience)
                return None
            parts = [own, *(torch.empty_like(own) for _ in range(1, self.size))]
            _wait([self._model.recv([parts[rank]], rank, TAG) for rank in range(1, self.size)], self._patience)
            return [part.numpy() for part in parts]

    def least(self, value: int) -> int:
        """The smallest value of all ranks, however long one takes: it is asked for while models load."""
        x = torch.tensor([value])
        _wait([self._plans.allreduce([x], self._least)], NEVER)
        return int(x)

    def send(self, frame: bytes) -> None:
        """Rank 0: to all others."""
        data = len(frame).to_bytes(_LENGTH_BYTES, "big") + frame
        first = torch.zeros(FRAME_BYTES, dtype=torch.uint8)
        head = data[:FRAME_BYTES]
        first[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._tell(first)
        if len(data) > FRAME_BYTES:
            self._tell(torch.frombuffer(bytearray(data[FRAME_BYTES:]), dtype=torch.uint8))

    def _tell(self, data: Tensor) -> None:
        _wait([self._plans.send([data], rank, TAG) for rank in range(1, self.size)], self._patience)

    def receive(self) -> bytes:
        """All others: what rank 0 has sent, however long it takes."""
        head = self._hear(FRAME_BYTES)
        end = _LENGTH_BYTES + int.from_bytes(head[:_LENGTH_BYTES], "big")
        if end <= FRAME_BYTES:
            return head[_LENGTH_BYTES:end]
        return head[_LENGTH_BYTES:] + self._hear(end - FRAME_BYTES)

    def _hear(self, count: int) -> bytes:
        data = torch.empty(count, dtype=torch.uint8)
        _wait([self._plans.recv([data], 0, TAG)], NEVER)
        return data.numpy().tobytes()

    @contextlib.contextmanager
    def _counted(self, x: Tensor) -> Iterator[None]:
        """A collective that puts x in, and how long it takes."""
        began = time.perf_counter()
        self._count(x)
        yield
        self.seconds += time.perf_counter() - began

    def _count(self, x: Tensor) -> None:
        self.calls += 1
        self.num_bytes += x.nbytes


def _added(parts: Tensor) -> Tensor:
    """The sum of parts[0], parts[1], …, in this order for every number: torch's own sum may pair them otherwise."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _with(options: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(options, name, value)
    return options


def _wait(works: Sequence[Any], timeout: timedelta) -> None:
    try:
        for work in works:
            work.wait(timeout)
    except RuntimeError as error:
        raise RankLostError(f"a rank is gone or does not answer: {error}") from error
