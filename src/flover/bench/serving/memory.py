"""Memory of processes, read from /proc, and the packed size of a model's weights."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from flover.config import EngineConfig
from flover.errors import EngineError
from flover.model.config import parameter_shapes
from flover.model.describe import describe_model
from flover.model.formats import is_gated
from flover.model.shard import WHOLE
from flover.ops.cpu_weight import PackedWeight

VECTOR_BYTES = 4
"""Norms and biases are float32 in every format."""


def peak_memory(pid: int) -> int:
    """Peak resident memory of a process (VmHWM) in bytes, mapped files included. Raises `EngineError`."""
    return _status(pid, "VmHWM")


def resident_memory(pid: int) -> int:
    """Resident memory of a process (VmRSS) in bytes. Raises `EngineError`."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError as error:
        raise EngineError(f"the memory of process {pid} cannot be read: {error}") from error
    if found is None:
        raise EngineError(f"/proc/{pid}/status has no {name}")
    return int(found[1]) * 2**10


def children(pid: int) -> list[int]:
    """Running child processes of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def packed_bytes(config: EngineConfig) -> int:
    """Bytes of all weights as packed for the kernels. Raises `ModelError`."""
    model = describe_model(config, WHOLE, weights=False)
    total = 0
    for name, shape in parameter_shapes(model.config).items():
        if len(shape) == 2:
            gated = is_gated(name, model.config)
            total += sum(
                PackedWeight((rows.count, shape[1]), rows.format, gated).num_bytes for rows in model.formats[name]
            )
        else:
            total += VECTOR_BYTES * shape[0]
    return total
