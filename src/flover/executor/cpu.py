"""The CPU as a platform: kernels on threads of their own, the cache in memory of the host."""

from __future__ import annotations

from flover.config import EngineConfig
from flover.executor.adapters import DeviceAdapters
from flover.executor.device import Captures, DeviceExecutor
from flover.memory.kvcache import KVCache, KVShape, PageCache
from flover.memory.machine import Machine, read_machine
from flover.model.describe import Description
from flover.ops import DType, Group, Ops
from flover.ops.cpu import cpu_ops
from flover.request import ModelFacts


class CpuPlatform:
    """The cores and the memory of this machine, as `config` uses them."""

    deterministic = True
    device = "cpu"
    description = "cpu"

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    def machine(self) -> Machine:
        """Cores and memory as Linux reports them."""
        return read_machine(with_siblings=self._config.data_parallel_size > 1)

    def check(self, described: Description) -> None:
        """Every format that is described has its kernels."""

    def new_ops(self, num_threads: int, group: Group, described: Description) -> Ops:
        """The kernels for the instruction set that is asked for; their activations are float32."""
        return cpu_ops(self._config.cpu_isa, num_threads, group)

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> KVCache:
        """An anonymous mapping, backed with memory as it is written."""
        return KVCache(shape, num_pages, page_size, dtype, ops.page_shapes)

    def new_executor(
        self, decoder: Captures, kv: PageCache, facts: ModelFacts, num_rows: int, adapters: DeviceAdapters | None
    ) -> DeviceExecutor:
        """The one that samples on the host."""
        return DeviceExecutor(decoder, kv, facts, num_rows, adapters)
