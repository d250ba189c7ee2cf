"""The host tier of a device: opened as the settings ask for it, and what plans copy."""

from __future__ import annotations

from flover.config import EngineConfig
from flover.config.offload import FLAG, NEEDS_CPU
from flover.engine.plan import StepPlan
from flover.errors import ConfigError, InvariantError
from flover.memory.kvcache import KVCache, PageCache
from flover.memory.offload import PageStore
from flover.memory.offload_file import open_offload_file
from flover.ops import Group


def open_store(config: EngineConfig, cache: PageCache, group: Group) -> PageStore | None:
    """As many slots as `--kv-offload-bytes` has room for, on each rank; None if it is not given. Raises
    `ConfigError`."""
    if config.kv_offload_bytes is None:
        return None
    if not isinstance(cache, KVCache):
        raise ConfigError(NEEDS_CPU)
    num_slots = group.least(config.kv_offload_bytes // cache.page_bytes)
    if num_slots < 1:
        raise ConfigError(
            f"{FLAG} {config.kv_offload_bytes} has no room for a page of {cache.page_bytes} bytes "
            f"(--block-size {config.block_size})"
        )
    file = open_offload_file(
        config.kv_offload_path, config.data_parallel_size, group.rank, keep=config.kv_offload_persistent
    )
    return PageStore(cache, file, num_slots)


def copy_pages(plan: StepPlan, store: PageStore | None) -> None:
    """Store and load what the plan says. Raises `OSError` if a page cannot be loaded."""
    if not plan.copies:
        return
    if store is None:
        raise InvariantError(f"step {plan.step} copies pages, and there is no host tier")
    store.apply(plan.copies)


def error_of(store: PageStore | None) -> str | None:
    """Why nothing is stored any more."""
    return None if store is None else store.error
