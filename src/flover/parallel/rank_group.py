"""The ranks of a model as a group: plans, and the smallest of some numbers, over Gloo on the host whatever device
computes. The model's collectives are the device's: `group.py`, `device_group.py`.

Nothing global of torch.distributed is touched: a program that embeds Flover keeps its own process group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from flover.errors import RankLostError
from flover.ops import Array, Reduction
from flover.parallel.gloo import connect, dist, schedule_threads

INIT_TIMEOUT = timedelta(minutes=5)
"""Time for the group to form: processes start, libraries load, ranks meet, load the model and warm up."""
NEVER = timedelta(days=365)
"""Followers wait for the next plan as long as the engine is idle; the end of rank 0 they notice by its socket."""
FRAME_BYTES = 4096
"""Frames up to so many bytes are sent in one piece, longer ones in two."""
_LENGTH_BYTES = 8


class RankGroup(ABC):
    """The ranks of one model, seen from rank `rank` of `size`; `local_size` of them are on this machine.

    `address` is where the others reach this rank. What a rank does not join within `timeout` seconds, and what a rank
    that has died should have joined, raises `RankLostError`: the group is of no use after it. Until the group has
    formed (`formed`) ranks are waited for as long as `init_timeout`.
    """

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
        self.rank = rank
        self.size = size
        self.local_size = local_size
        self.calls = 0
        """Collectives of the model so far, the bytes that this rank put into them, and the seconds that its host spent
        in them, waiting for the others included."""
        self.num_bytes = 0
        self.seconds = 0.0
        self.patience = init_timeout
        """How long a rank is waited for."""
        self._timeout = timedelta(seconds=timeout)
        self._plans = connect(store, "plans", rank, size, address, init_timeout)
        # The timeout of a connection is for its making; collectives bring their own.
        self._least = with_values(dist.AllreduceOptions(), timeout=NEVER, reduceOp=dist.ReduceOp.MIN)
        schedule_threads()

    @abstractmethod
    def all_reduce(self, reduction: Reduction, x: Array) -> None:
        """Put each number's sum or maximum over all ranks into `x`, contiguous; every rank gets the same bits."""

    @abstractmethod
    def gather(self, x: Array, widths: Sequence[int]) -> Array | None:
        """On rank 0 the first widths[r] columns of every rank's `x` [S, n], in the order of ranks, side by side; None
        on the others."""

    def formed(self) -> None:
        """Wait until all ranks have come so far, however long one takes. From now on they have the shorter timeout."""
        self.least(0)
        self.patience = self._timeout

    @abstractmethod
    def watch(self, check: Callable[[], None]) -> None:
        """Let `check` tell, while a collective runs, that a rank has ended: it raises `RankLostError`."""

    @abstractmethod
    def check(self) -> None:
        """Raises `RankLostError` if a collective was given up that the host did not wait for."""

    @abstractmethod
    def close(self) -> None:
        """Free what the device has of the group. Calling it twice is harmless."""

    def least(self, value: int) -> int:
        """The smallest value of all ranks, however long one takes: it is asked for while models load."""
        x = torch.tensor([value])
        wait_all([self._plans.allreduce([x], self._least)], NEVER)
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

    def receive(self) -> bytes:
        """All others: what rank 0 has sent, however long it takes."""
        head = self._hear(FRAME_BYTES)
        end = _LENGTH_BYTES + int.from_bytes(head[:_LENGTH_BYTES], "big")
        if end <= FRAME_BYTES:
            return head[_LENGTH_BYTES:end]
        return head[_LENGTH_BYTES:] + self._hear(end - FRAME_BYTES)

    def _tell(self, data: Tensor) -> None:
        wait_all([self._plans.send([data], rank, 0) for rank in range(1, self.size)], self.patience)

    def _hear(self, count: int) -> bytes:
        data = torch.empty(count, dtype=torch.uint8)
        wait_all([self._plans.recv([data], 0, 0)], NEVER)
        return data.numpy().tobytes()

    def _count(self, x: Tensor) -> None:
        """A collective that puts x in."""
        self.calls += 1
        self.num_bytes += x.nbytes


def with_values(options: Any, **values: Any) -> Any:
    """Options of torch with these attributes."""
    for name, value in values.items():
        setattr(options, name, value)
    return options


def wait_all(works: Sequence[Any], timeout: timedelta) -> None:
    """Wait for collectives. Raises `RankLostError` if one fails or takes longer."""
    try:
        for work in works:
            work.wait(timeout)
    except RuntimeError as error:
        raise RankLostError(f"a rank is gone or does not answer: {error}") from error
