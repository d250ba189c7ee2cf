"""Memory and cores available to this process, as Linux reports them, and how many threads to use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What the processes of one server share: cores, bytes of memory before any of them reads weights, bytes of the
    last level of caches (0: unknown), the part of the memory beside the weights that pages may take unless a size is
    asked for, and what messages call the memory. With `own_memory` each process has as much for itself: on GPUs, where
    activations have `spare_bytes` beside it."""

    cores: int
    available_bytes: int
    cache_bytes: int = 0
    pool_share: float = 0.5
    memory: str = "this machine's memory"
    own_memory: bool = False
    spare_bytes: int = 0


def read_machine(*, with_siblings: bool = False) -> Machine:
    """The machine of this process. `with_siblings` counts the memory of the parent's other children as available: for
    one of several replicas that divide the machine, some of which may have loaded already."""
    return Machine(usable_cores(), available_memory() + (sibling_memory() if with_siblings else 0), cache_memory())


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that the process can still allocate: the smaller of MemAvailable and what its control groups have left.

    Raises `OSError` where /proc/meminfo is missing.
    """
    available = _meminfo(root / "proc/meminfo")
    group = _group_available(root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
    legacy = _group_available(
        root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )
    return max(0, min(value for value in (available, group, legacy) if value is not None))


def sibling_memory(root: Path = Path("/"), parent: int | None = None) -> int:
    """Bytes in memory of the other children of this process's parent (or of `parent`), files that they map left out."""
    held = 0
    for folder in (root / "proc").glob("[0-9]*"):
        try:
            fields = dict(
                line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
            )
        except OSError:  # it has ended meanwhile
            continue
        if int(fields["PPid"]) == (parent or os.getppid()) and int(fields["Pid"]) != os.getpid():
            held += int(fields.get("RssAnon", "0").split()[0]) * 1024
    return held


def cache_memory(root: Path = Path("/")) -> int:
    """Bytes of the caches of the last level that the cores of this process reach, each counted once; 0 where the system
    does not say."""
    sizes: dict[int, dict[str, int]] = {}
    for core in sorted(os.sched_getaffinity(0)):
        for folder in (root / f"sys/devices/system/cpu/cpu{core}/cache").glob("index[0-9]*"):
            try:
                level, cores, size = (
                    (folder / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
                )
            except OSError:
                continue
            if size.endswith("K"):
                sizes.setdefault(int(level), {})[cores] = int(size[:-1]) * 1024
    return sum(sizes[max(sizes)].values()) if sizes else 0


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def compute_threads(asked: int | None, sharing: int = 1, cores: int | None = None) -> int:
    """Threads of one process: as many as `--num-threads` asks for, else its part of the `cores` (the usable ones by
    default), which `sharing` processes divide among themselves."""
    return asked or max(1, (cores or usable_cores()) // sharing)


def _meminfo(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{path} has no MemAvailable")


def _group_available(folder: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
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
