"""Loads a model onto a device: weights, and as many pages as the memory beside them holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from flover.config import EngineConfig
from flover.executor.adapters import DeviceAdapters
from flover.executor.detect import new_platform, resolve_device
from flover.executor.device import DeviceExecutor
from flover.executor.draft_model import DraftModel
from flover.executor.offload import open_store
from flover.executor.platform import Platform
from flover.heap import return_freed_memory
from flover.memory.offload import PageStore
from flover.memory.sizing import PoolSize
from flover.model.adapters import AdapterReader
from flover.model.describe import Description, describe_model
from flover.model.draft import with_draft
from flover.model.formats import expert_reads
from flover.model.load import LoadedModel, load_described
from flover.model.shard import Shard
from flover.ops import Alone, Group, Ops
from flover.request import ModelFacts


def load_device(
    config: EngineConfig,
    progress: Callable[..., None],
    group: Group | None = None,
    platform: Platform | None = None,
    load: Callable[[Description, Ops, Callable[[int, int], None]], LoadedModel] = load_described,
) -> DeviceExecutor:
    """Size the pool of the model that `config` names, load it or the share of it that this rank of `group` has, and
    warm up.

    `platform` is that of `config.device` by default; `load` makes the weights, by default of what was described.
    `progress(done, total)` counts bytes of weights, and then, where forwards are captured, `progress(done, total,
    "CUDA graphs")` these. Raises `ModelError` and `ConfigError`.
    """
    group = group or Alone()
    config = resolve_device(config)
    platform = platform or new_platform(config, config.local_rank(group.rank))
    shard = Shard(group.rank, group.size)
    described = with_draft(describe_model(config, shard))
    plan = described.plan(platform.machine(), group.local_size * config.data_parallel_size)
    return_freed_memory()  # the weights take all that there is
    platform.check(described)
    ops = platform.new_ops(plan.num_threads, group, described)
    loaded = load(described, ops, progress)
    return_freed_memory()
    size = dataclasses.replace(plan.pool, num_pages=group.least(plan.pool.num_pages))
    cache = platform.new_cache(loaded.own, size.num_pages, config.block_size, described.kv_dtype, ops)
    store = open_store(config, cache, group)
    facts = _facts(loaded, size, config, platform, store)
    executor = platform.new_executor(loaded.decoder, cache, facts, config.max_num_seqs, _adapters(loaded, config))
    executor.store = store
    if described.draft is not None:
        executor.draft_with(_load_draft(described.draft, loaded, size, platform, ops))
    executor.warm_up(lambda done, total: progress(done, total, "CUDA graphs"))
    group.formed()
    return executor


def _adapters(loaded: LoadedModel, config: EngineConfig) -> DeviceAdapters | None:
    """Room for adapters; None if there are none."""
    if not config.enable_lora:
        return None
    reader = AdapterReader(loaded.description.family, loaded.config, config.max_lora_rank)
    return DeviceAdapters(loaded.decoder.adapters, config.max_loras, config.max_num_seqs, reader.read)


def _load_draft(
    described: Description, verifying: LoadedModel, size: PoolSize, platform: Platform, ops: Ops
) -> DraftModel:
    """The draft model, on pages with the numbers of those of the model that verifies."""
    loaded = load_described(described, ops, lambda done, total: None)
    cache = platform.new_cache(loaded.own, size.num_pages, size.page_size, described.kv_dtype, ops)
    return DraftModel(loaded.decoder, cache, size.page_size, verifying.config.vocab_size)


def _facts(
    loaded: LoadedModel, size: PoolSize, config: EngineConfig, platform: Platform, store: PageStore | None
) -> ModelFacts:
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
        hidden_size=model.hidden_size,
        experts=expert_reads(model, loaded.description.formats),
        switch_len=model.switch_len(loaded.max_len),
        max_loras=config.max_loras if config.enable_lora else 0,
        deterministic=platform.deterministic,
        num_slots=0 if store is None else store.num_slots,
        page_bytes=size.page_bytes,
    )
