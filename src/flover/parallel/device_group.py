"""The collectives of a model whose ranks have a GPU each, on the stream that computes: NCCL behind the group object.

A collective is launched like a kernel and not waited for by the host, and a captured forward has its own in it. So it
does not tell when a rank is gone: the host would wait for a kernel that waits for ever. `Watchdog` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from flover.errors import RankLostError
from flover.ops import Reduction
from flover.ops.cuda.tree import add_parts
from flover.parallel.gloo import dist
from flover.parallel.rank_group import INIT_TIMEOUT, RankGroup, with_values
from flover.parallel.watchdog import Watchdog


class DeviceGroup(RankGroup):
    """The collectives of tensors, by a backend of torch.distributed that `connect_model(store, rank, size)` makes.

    `calls` and `num_bytes` count what Python launches: of a captured forward once, when it is captured. `seconds` stay
    0: the host waits for none.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        connect_model: Callable[[Any, int, int], Any],
        *,
        local_size: int,
        address: str,
        timeout: float,
        init_timeout: timedelta = INIT_TIMEOUT,
        in_order: bool = False,
    ) -> None:
        """As a `RankGroup`. `in_order`: a sum is one tree over the ranks."""
        super().__init__(
            store, rank, size, local_size=local_size, address=address, timeout=timeout, init_timeout=init_timeout
        )
        self._model = connect_model(store, rank, size)
        self._in_order = in_order
        # Not on a stream of the backend's own: the stream that computes is the one that is captured.
        options = {"asyncOp": False, "timeout": init_timeout}
        self._reductions = {
            "sum": with_values(dist.AllreduceOptions(), reduceOp=dist.ReduceOp.SUM, **options),
            "max": with_values(dist.AllreduceOptions(), reduceOp=dist.ReduceOp.MAX, **options),
        }
        self._to_all = with_values(dist.distributed_c10d.AllgatherOptions(), **options)
        self._to_rank_0 = with_values(dist.GatherOptions(), rootRank=0, **options)
        self._watchdog = Watchdog(self._model.abort, lambda: self.patience.total_seconds())

    def watch(self, check: Callable[[], None]) -> None:
        """By the watchdog."""
        self._watchdog.watch(check)

    def check(self) -> None:
        """Whether the watchdog has given a collective up."""
        if self._watchdog.problem is not None:
            raise RankLostError(self._watchdog.problem)

    def close(self) -> None:
        """End the communicator, which waits for no other rank. Nothing that holds a captured collective may be left."""
        self._watchdog.close()
        self._model.abort()

    def all_reduce(self, reduction: Reduction, x: Tensor) -> None:
        """Put each number's sum or maximum over all ranks into `x`, contiguous; every rank gets the same bits. Of more
        than two ranks sums are NCCL's, whose order may depend on where a number stands in `x`; `in_order`, every rank
        takes what all have, N times the bytes of `x`, and adds it as a tree."""
        self._count(x)
        if self._in_order and self.size > 2 and reduction == "sum" and x.is_floating_point():
            parts = torch.empty((self.size, *x.shape), dtype=x.dtype, device=x.device)
            self._launch(lambda: self._model._allgather_base(parts.view(-1), x.view(-1), self._to_all))
            add_parts(parts, x)
        else:
            self._launch(lambda: self._model.allreduce([x], self._reductions[reduction]))

    def gather(self, x: Tensor, widths: Sequence[int]) -> Tensor | None:
        """On rank 0 the first widths[r] columns of every rank's `x` [S, n], in the order of ranks, side by side."""
        self._count(x)
        parts = [torch.empty_like(x) for _ in widths] if self.rank == 0 else []
        self._launch(lambda: self._model.gather([parts] if parts else [], [x], self._to_rank_0))
        self._watchdog.launched(_finished(x.device))
        return torch.cat([part[:, :n] for part, n in zip(parts, widths, strict=True)], 1) if parts else None

    def _launch(self, collective: Callable[[], Any]) -> None:
        try:
            work = collective()
            if work is not None:  # NCCL's is launched behind what the stream has to do, and leaves nothing to wait for
                work.wait()  # lets the stream wait, not the host
        except RuntimeError as error:
            raise RankLostError(f"a rank is gone or does not answer: {error}") from error


def _finished(device: torch.device) -> Callable[[], bool]:
    """Whether the device has done what it has been asked for so far."""
    if device.type != "cuda":
        return lambda: True
    done: Callable[[], bool] = torch.cuda.current_stream(device).record_event().query
    return done
