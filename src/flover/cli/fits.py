"""Does a model fit this machine, and how fast can it be? No weight is read; everything that `flover serve` would refuse
before it reads them is refused here, by the same functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flover.bench.kernels.timing import best_mean
from flover.cli.doctor import gib
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.ipc.spawn import engine_command
from flover.memory.machine import available_memory, usable_cores
from flover.memory.sizing import PoolSize
from flover.model.describe import Description, describe_model, kv_dtype_of
from flover.model.formats import weight_bytes
from flover.model.load import rotary_rule
from flover.model.shard import Shard
from flover.ops.cpu import CpuOps, cpu_ops
from flover.ops.cpu_layout import address
from flover.server.loading import load_text

PROBE_BYTES = 2**28
"""Most that the bandwidth probe reads: far larger than any cache."""
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
        engine_command(config.distributed_executor_backend)
        load_text(config, None)
        model = describe_model(config, Shard(0, config.tensor_parallel_size), weights=False)
        cpu_ops(config.cpu_isa, 1)
    except (ModelError, ConfigError) as error:
        return Fit(False, "The model cannot be used.", {"error": str(error)})
    facts = _model_facts(model)
    try:
        pool = plan_memory(model, available_memory())
    except (ModelError, ConfigError) as error:
        return Fit(False, f"The model does not fit: {error}", facts)
    return Fit(True, "The model fits.", facts | _pool_facts(pool, model) | _speed_facts(model))


def plan_memory(model: Description, available: int) -> PoolSize:
    """The pool of keys and values of one engine process, when `available` bytes are shared by all that run on this
    machine: ranks and replicas. Raises what an engine raises that has loaded its weights there."""
    config = model.settings
    sharing = config.tensor_parallel_size // config.nnodes * config.data_parallel_size
    model.check_weights(available // sharing)
    return model.pool(available // sharing - model.weight_bytes)


def _model_facts(model: Description) -> dict[str, str]:
    config = model.config
    token_bytes = config.kv_bytes_per_token(kv_dtype_of(model.settings))
    facts = {
        "directory": str(model.source.path),
        "architecture": f"{config.architecture}, {config.num_layers} layers, hidden size {config.hidden_size}",
        "parameters": f"{config.num_parameters() / 1e6:,.1f} million",
        "weights": f"{gib(weight_bytes(config, model.formats))} as {model.format}",
        "context": f"{model.max_len:,} tokens",
        "keys and values": f"{gib(token_bytes)} per token, {gib(token_bytes * model.max_len)} for a full context",
    }
    switch_len = config.switch_len(model.max_len)
    if switch_len is not None:
        facts["rotary embedding"] = rotary_rule(switch_len)
    if model.reads is None and model.settings.load_format != "dummy":
        facts["weight files"] = "not fetched yet, so not looked at"
    return facts


def _pool_facts(pool: PoolSize, model: Description) -> dict[str, str]:
    full, most = pool.pool_tokens // model.max_len, model.settings.max_num_seqs
    return {
        "pool": f"{gib(pool.total_bytes)}, {pool.pool_tokens:,} tokens in pages of {pool.page_size}",
        "requests": f"{min(full, most)} of full context at once, {most} at most",
    }


def _speed_facts(model: Description) -> dict[str, str]:
    """One iteration reads every weight once (of an untied embedding only the rows it looks up). Weights that fit the
    caches are read from there: the probe is as large as they are."""
    threads = model.settings.num_threads or usable_cores()
    whole = model.config
    read_bytes = max(1, weight_bytes(whole, model.formats, without=() if whole.tied_embeddings else ("embed.weight",)))
    probe_bytes = max(2**12, min(PROBE_BYTES, read_bytes))
    bandwidth = measure_bandwidth(threads, probe_bytes)
    return {
        "memory bandwidth": f"{bandwidth / 1e9:.1f} GB/s read, {gib(probe_bytes)} again and again by {threads} threads",
        "upper bound": f"{bandwidth / read_bytes:,.0f} iterations/s, if only reading weights took time; each gives "
        "a token to every request that is generating",
    }


def measure_bandwidth(threads: int, probe_bytes: int = PROBE_BYTES) -> float:
    """Bytes per second at which so many bytes are read by the kernels' threads; the best round."""
    runner = CpuOps("auto", threads).runner
    probe = np.ones(probe_bytes // 4, dtype=np.float32)
    return probe.nbytes / best_mean(lambda: runner.read(address(probe), probe.nbytes), PROBE_SECONDS)
