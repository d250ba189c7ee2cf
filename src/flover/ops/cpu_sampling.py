"""What is done with logits, on the C++ kernels."""

from __future__ import annotations

import numpy as np

from flover import _cpu
from flover.ops import SAMPLE_DTYPES, HostArray, SampleParams
from flover.ops.cpu_layout import address, floats, ids_of, words_of


def argmax(runner: _cpu.KernelRunner, logits: HostArray, masks: HostArray | None = None) -> tuple[HostArray, HostArray]:
    """The largest of each row and the first id that has it."""
    rows, size = logits.shape
    values, ids = np.empty(rows, dtype=np.float32), np.empty(rows, dtype=np.int64)
    runner.run(
        _cpu.ArgMax(
            logits=floats(logits),
            rows=rows,
            size=size,
            masks=words_of(masks),
            values=floats(values),
            ids=ids_of(ids),
        )
    )
    return values, ids


def logsumexp(runner: _cpu.KernelRunner, logits: HostArray) -> HostArray:
    """The logarithm of the sum of exponentials of each row."""
    rows, size = logits.shape
    y = np.empty(rows, dtype=np.float64)
    runner.run(_cpu.LogSumExp(logits=floats(logits), rows=rows, size=size, y=address(y)))
    return y


def sample(runner: _cpu.KernelRunner, logits: HostArray, best: HostArray, params: SampleParams) -> HostArray:
    """A random token of each row."""
    rows, size = logits.shape
    ids = np.empty(rows, dtype=np.int64)
    columns = {name: np.ascontiguousarray(getattr(params, name), dtype=kind) for name, kind in SAMPLE_DTYPES.items()}
    runner.run(
        _cpu.Sample(
            logits=floats(logits),
            rows=rows,
            size=size,
            best=floats(best),
            ids=ids_of(ids),
            **{name: address(column) for name, column in columns.items()},
        )
    )
    return ids
