"""Loads a model onto a device: weights, then as many pages as the memory that is left holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from flover.config import EngineConfig
from flover.executor.cpu import CpuPlatform
from flover.executor.device import DeviceExecutor
from flover.executor.platform import Platform
from flover.memory.sizing import PoolSize
from flover.model.describe import kv_dtype_of
from flover.model.load import LoadedModel, load_model
from flover.ops import Alone, Group
from flover.request import ModelFacts


def load_device(
    config: EngineConfig, progress: Callable[[int, int], None], group: Group | None = None
) -> DeviceExecutor:
    """Load the model that `config` names, or the share of it that this rank of `group` has, size the pool after the
    memory that is left, and warm up.

    `progress(done, total)` counts bytes of weights. Raises `ModelError` and `ConfigError`.
    """
    group = group or Alone()
    platform: Platform = CpuPlatform(config, group)
    loaded = load_model(config, platform.ops, progress)
    size = loaded.description.pool(platform.available_memory())
    size = dataclasses.replace(size, num_pages=group.least(size.num_pages))
    cache = platform.new_cache(loaded.own, size.num_pages, config.block_size, kv_dtype_of(config))
    executor = DeviceExecutor(loaded.decoder, cache, _facts(loaded, size, config, platform), config.max_num_seqs)
    executor.warm_up()
    return executor


def _facts(loaded: LoadedModel, size: PoolSize, config: EngineConfig, platform: Platform) -> ModelFacts:
    model = loaded.config
    return ModelFacts(
        model=loaded.name,
        architecture=model.architecture,
        dtype=loaded.format,
        vocab_size=model.vocab_size,
        max_model_len=loaded.max_len,
        pool_tokens=size.pool_tokens,
        page_size=config.block_size,
        eos_ids=list(model.eos_ids),
        num_parameters=model.num_parameters(),
        switch_len=model.switch_len(loaded.max_len),
        deterministic=platform.deterministic,
    )
