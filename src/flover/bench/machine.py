"""The machine of a result: processor, cores, memory, versions, commit. Reads /proc and runs git."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
"""Processor flags that matter for inference, as Linux names them."""


def cpu_facts() -> dict[str, Any]:
    """Model name, cores of the machine, cores usable by this process, and its flags out of `FLAGS`."""
    info = _proc("/proc/cpuinfo")
    present = set(info.get("flags", "").split()) | set(info.get("Features", "").split())
    return {
        "model": info.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "usable": sorted(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in present],
    }


def memory_facts() -> dict[str, int]:
    """Memory of the machine in bytes: `total` and `available`; zeros if unknown."""
    info = _proc("/proc/meminfo")

    def entry(name: str) -> int:
        return int(info.get(name, "0").split()[0]) * 1024

    return {"total": entry("MemTotal"), "available": entry("MemAvailable")}


def package_version(name: str) -> str | None:
    """The installed version of a package, None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the package's checkout, with a "+" if files are changed; None outside a checkout."""
    here = Path(__file__).parent
    found = _git(here, "rev-parse", "--short=12", "HEAD")
    changed = _git(here, "status", "--porcelain", "--", here.parent.as_posix())
    return None if found is None else found + ("+" if changed else "")


def machine_facts() -> dict[str, Any]:
    """The facts of the machine for a result's JSON line."""
    cpu = cpu_facts()
    return {
        "cpu": cpu["model"],
        "cores": len(cpu["usable"]),
        "memory_gib": round(memory_facts()["total"] / 2**30, 1),
        "system": platform.system().lower(),
        "python": platform.python_version(),
        "torch": package_version("torch"),
        "flover": package_version("flover"),
    }


def _git(where: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], cwd=where, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _proc(path: str) -> dict[str, str]:
    """The first `key : value` of each key of a file in /proc; empty if the file is missing."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts
