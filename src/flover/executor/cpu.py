"""The CPU as a platform: kernels on as many threads as this process has cores, the cache in memory of the host."""

from __future__ import annotations

from flover.config import EngineConfig
from flover.memory.kvcache import KVCache, KVShape
from flover.memory.machine import available_memory, usable_cores
from flover.ops import DType, Group
from flover.ops.cpu import cpu_ops


class CpuPlatform:
    """The share of this machine's cores and memory that one rank of `group` has. Raises `ConfigError`."""

    deterministic = True

    def __init__(self, config: EngineConfig, group: Group) -> None:
        self._sharing = group.local_size * config.data_parallel_size  # processes like this one on this machine
        num_threads = config.num_threads or max(1, usable_cores() // self._sharing)
        self.ops = cpu_ops(config.cpu_isa, num_threads, group)

    def available_memory(self) -> int:
        """What the system would lend without pushing others out, dealt out evenly."""
        return available_memory() // self._sharing

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType) -> KVCache:
        """An anonymous mapping, backed with memory as it is written."""
        return KVCache(shape, num_pages, page_size, dtype, self.ops.page_shapes)
