"""Does a model fit this machine, and how fast can it be? From its config.json alone; no weight is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from flover.bench.kernels.timing import best_mean
from flover.cli.doctor import gib
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.memory.machine import available_memory, usable_cores
from flover.memory.sizing import PoolSize, size_pool
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.hf_config import read_model_directory
from flover.model.load import kv_dtype_of, weight_format_of
from flover.model.locate import locate_model
from flover.ops import WeightFormat
from flover.ops.cpu import CpuOps
from flover.ops.cpu_weight import BYTES_PER_WEIGHT

PROBE_BYTES = 2**28
"""What the bandwidth probe reads: far larger than any cache."""
PROBE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found: facts by name, in the order to show them, and the verdict."""

    fits: bool
    verdict: str
    facts: dict[str, str]


def find_fit(config: EngineConfig) -> Fit:
    """Look at the model that `config` names and at this machine. A model that cannot be read does not fit."""
    try:
        path = locate_model(config.model, config.revision, config.download_dir, weights=False)
        _, model = read_model_directory(path)
    except ModelError as error:
        return Fit(False, "The model cannot be used.", {"error": str(error)})
    weight_format = weight_format_of(config)
    weight_bytes = int(model.num_parameters() * BYTES_PER_WEIGHT[weight_format])
    token_bytes = model.kv_bytes_per_token(kv_dtype_of(config))
    max_len = config.max_model_len or model.default_max_len
    facts = {
        "directory": str(path),
        "architecture": f"{model.architecture}, {model.num_layers} layers, hidden size {model.hidden_size}",
        "parameters": f"{model.num_parameters() / 1e6:,.1f} million",
        "weights": f"{gib(weight_bytes)} as {weight_format}",
        "context": f"{max_len:,} tokens",
        "keys and values": f"{gib(token_bytes)} per token, {gib(token_bytes * max_len)} for a full context",
    }
    try:
        pool = _size(config, token_bytes, max_len, available_memory() - weight_bytes)
    except ConfigError as error:
        return Fit(False, f"The model does not fit: {error}", facts)
    return Fit(
        True, "The model fits.", facts | _pool_facts(pool, max_len, config) | _speed_facts(model, weight_format, config)
    )


def _size(config: EngineConfig, token_bytes: int, max_len: int, room: int) -> PoolSize:
    if room <= 0:
        raise ConfigError(f"the weights alone need {gib(-room)} more than there is")
    return size_pool(
        page_bytes=token_bytes * config.block_size,
        page_size=config.block_size,
        max_num_seqs=config.max_num_seqs,
        max_model_len=max_len,
        available_bytes=room,
        asked_bytes=config.kv_cache_memory_bytes,
    )


def _pool_facts(pool: PoolSize, max_len: int, config: EngineConfig) -> dict[str, str]:
    full = pool.pool_tokens // max_len
    return {
        "pool": f"{gib(pool.total_bytes)}, {pool.pool_tokens:,} tokens in pages of {pool.page_size}",
        "requests": f"{min(full, config.max_num_seqs)} of full context at once, {config.max_num_seqs} at most",
    }


def _speed_facts(model: ModelConfig, weight_format: WeightFormat, config: EngineConfig) -> dict[str, str]:
    """One iteration reads every weight once (of an untied embedding only the rows it looks up)."""
    threads = config.num_threads or usable_cores()
    bandwidth = measure_bandwidth(threads)
    shapes = parameter_shapes(model)
    numbers = model.num_parameters() - (0 if model.tied_embeddings else math.prod(shapes["embed.weight"]))
    weight_bytes = numbers * BYTES_PER_WEIGHT[weight_format]
    return {
        "memory bandwidth": f"{bandwidth / 1e9:.1f} GB/s read, measured with {threads} threads",
        "upper bound": f"{bandwidth / weight_bytes:,.0f} tokens/s for one request, if only reading weights took time",
    }


def measure_bandwidth(threads: int) -> float:
    """Bytes per second at which memory larger than the caches is read by the kernels' threads; the best round."""
    runner = CpuOps("auto", threads).runner
    probe = torch.ones(PROBE_BYTES // 4)
    return probe.nbytes / best_mean(lambda: runner.read(probe.data_ptr(), probe.nbytes), PROBE_SECONDS)
