"""A forward captured as a CUDA graph: all of its launches are one call of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import Capture, RaggedBatch


def capture_on(device: torch.device) -> Capture | None:
    """The slot `capture` of the op table: graphs that share one pool of memory; None for a device without them."""
    return _Graphs() if device.type == "cuda" else None


class _Graphs:
    """They run one at a time, so what one has computed lies in the memory of the next."""

    def __init__(self) -> None:
        self._pool: Any = None  # torch's name of it, once the first has one

    def __call__(
        self, compute: Callable[[], Tensor], example: RaggedBatch, constants: Sequence[Tensor]
    ) -> Callable[[RaggedBatch], Tensor]:
        """Runs are on the arrays of `example`, whatever they hold by then, and on no others. Everything that `compute`
        launches must have been launched before, so that nothing is compiled or loaded meanwhile."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": threads that ask whether a collective has ended are no part of it.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = compute()
        self._pool = graph.pool()

        def run(batch: RaggedBatch) -> Tensor:
            if batch.token_ids.data_ptr() != example.token_ids.data_ptr() or batch.num_rows != example.num_rows:
                raise InvariantError(
                    f"a forward captured for {example.num_rows} rows runs on the arrays of these alone"
                )
            graph.replay()
            return result

        return run
