"""Bytes to pages, and errors that say what to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flover.errors import ConfigError
from flover.memory.machine import available_memory, usable_cores
from flover.memory.sizing import PoolSize, num_pages_for, size_pool

GIB = 2**30


def size(**changes: Any) -> PoolSize:
    usual = {
        "page_bytes": 1000,
        "page_size": 16,
        "max_num_seqs": 4,
        "max_model_len": 100,
        "available_bytes": GIB,
    }
    return size_pool(**{**usual, **changes})


def test_pages_for_a_sequence_round_up() -> None:
    assert [num_pages_for(tokens, 16) for tokens in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_by_default_every_row_can_reach_the_context_and_the_null_page_is_extra() -> None:
    pool = size()
    assert pool.num_pages == 4 * 7 + 1
    assert pool.pool_tokens == 4 * 7 * 16
    assert pool.total_bytes == 29_000


def test_by_default_at_most_half_of_the_memory_is_taken() -> None:
    assert size(available_bytes=21_000).num_pages == 10


def test_bytes_asked_for_are_obeyed_even_below_one_full_context() -> None:
    pool = size(asked_bytes=3_999)
    assert pool.num_pages == 3
    assert pool.pool_tokens == 32 < 100


def test_a_pool_without_a_page_names_the_flag_and_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"--kv-cache-memory-bytes 1999 holds 1 pages of 1000 bytes.*2000"):
        size(asked_bytes=1_999)
    with pytest.raises(ConfigError, match=r"half of the available memory.*--kv-cache-memory-bytes to 2000"):
        size(available_bytes=3_999)


def test_more_than_the_machine_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--kv-cache-memory-bytes asks for 2048.0 MiB, but only 1024.0 MiB"):
        size(asked_bytes=2 * GIB)


def machine(root: Path, *, group: dict[str, str] | None = None) -> Path:
    (root / "proc").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   8000 kB\n")
    if group is not None:
        folder = root / "sys/fs/cgroup"
        folder.mkdir(parents=True)
        for name, text in group.items():
            (folder / name).write_text(text)
    return root


def test_available_memory_is_the_least_of_machine_and_control_group(tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path / "bare")) == 8000 * 1024
    group = {"memory.max": "5000\n", "memory.current": "3000\n", "memory.stat": "anon 1\ninactive_file 500\n"}
    assert available_memory(machine(tmp_path / "small", group=group)) == 2500
    unlimited = {**group, "memory.max": "max\n"}
    assert available_memory(machine(tmp_path / "free", group=unlimited)) == 8000 * 1024
    full = {**group, "memory.current": "9000\n"}
    assert available_memory(machine(tmp_path / "full", group=full)) == 0


def test_this_machine_has_memory_and_a_core() -> None:
    assert available_memory() > 0
    assert usable_cores() >= 1
