"""Memory and cores available to this process, as Linux reports them."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that the process can still allocate: the smaller of MemAvailable and what its control groups have left.

    Raises `OSError` where /proc/meminfo is missing.
    """
    room = _meminfo(root / "proc/meminfo")
    group = _group_room(root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
    legacy = _group_room(
        root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )
    return max(0, min(value for value in (room, group, legacy) if value is not None))


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _meminfo(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no MemAvailable")


def _group_room(folder: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
    """Bytes left in a control group, page cache that can be dropped counted as free; None without a limit."""
    try:
        limit = (folder / limit_name).read_text().strip()
        usage = int((folder / usage_name).read_text())
        stat = (folder / "memory.stat").read_text()
    except OSError:
        return None
    if not limit.isdigit():
        return None
    cache = next((int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{reclaimable} ")), 0)
    return int(limit) - usage + cache
