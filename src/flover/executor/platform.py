"""What a kind of device does in its own way; the executor and the loading are the same on all of them."""

from __future__ import annotations

from typing import Protocol

from flover.executor.adapters import DeviceAdapters
from flover.executor.device import Captures, DeviceExecutor
from flover.memory.kvcache import KVShape, PageCache
from flover.memory.machine import Machine
from flover.model.describe import Description
from flover.ops import DType, Group, Ops
from flover.request import ModelFacts


class Platform(Protocol):
    """A device, as one process of Flover uses it.

    How it computes (threads or streams, captured graphs) is in the operations. It prefers no type: weights have the one
    that the settings or the checkpoint say.
    """

    @property
    def device(self) -> str:
        """What `--device` calls it."""
        ...

    @property
    def description(self) -> str:
        """What it is, for people."""
        ...

    @property
    def deterministic(self) -> bool:
        """Whether a request that is computed again gets the same tokens, whatever runs beside it."""
        ...

    def machine(self) -> Machine:
        """What the processes of one server share, measured before weights are read."""
        ...

    def check(self, described: Description) -> None:
        """Before weights are read. Raises `ConfigError` for a model that this device cannot compute."""
        ...

    def new_ops(self, num_threads: int, group: Group, described: Description) -> Ops:
        """The operations that the decoder of this model is written against, for a rank of `group`; its `dtype` is the
        type of activations between quantized weights where it is free. Raises `ConfigError`."""
        ...

    def new_cache(self, shape: KVShape, num_pages: int, page_size: int, dtype: DType, ops: Ops) -> PageCache:
        """Pages for the keys and values of every layer. Raises `ConfigError` if there is no memory for them."""
        ...

    def new_executor(
        self,
        decoder: Captures,
        kv: PageCache,
        facts: ModelFacts,
        num_rows: int,
        adapters: DeviceAdapters | None,
    ) -> DeviceExecutor:
        """The executor for a decoder on these operations and pages."""
        ...
