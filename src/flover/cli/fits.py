"""Whether a model fits this machine, and an upper bound of its speed. Reads no weights; checks by the same functions as
`flover serve`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flover.bench.timing import best_mean
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.executor.platform import Platform
from flover.ipc.spawn import engine_command
from flover.memory.machine import Machine
from flover.memory.sizing import PoolSize
from flover.model.describe import Description, describe_model
from flover.model.draft import with_draft
from flover.model.formats import expert_reads, kinds_of, read_bytes, weight_bytes
from flover.model.load import rotary_rule
from flover.model.shard import Shard
from flover.ops.cpu import CpuOps, cpu_ops
from flover.ops.cpu_layout import address
from flover.server.text_side import load_text
from flover.service.build import check_extras
from flover.source.quantization import read_scheme

PROBE_BYTES = 2**28
"""Maximum size of the bandwidth probe, in bytes: far larger than any cache."""
PROBE_SECONDS = 0.1
BOUND_CACHES = 4
"""Weights of fewer times the caches' size are read from them in part: what memory alone would allow is no bound."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The result: facts by name, in display order, and the verdict."""

    fits: bool
    verdict: str
    facts: dict[str, str]


def find_device_fit(config: EngineConfig, devices: Sequence[Platform]) -> Fit:
    """Examine the model of `config` for the devices of this node (`local_platforms`): what fits the smallest does."""
    machine = min((device.machine() for device in devices), key=lambda one: one.available_bytes)
    return find_fit(config, machine, check=devices[0].check)


def find_fit(
    config: EngineConfig,
    machine: Machine,
    measure: Callable[[int, int], float] | None = None,
    check: Callable[[Description], None] = lambda model: None,
) -> Fit:
    """Examine the model of `config` for `machine`. A model that cannot be read, or that `check` refuses, does not fit.
    `measure` gives the bandwidth of so many threads over so many bytes (`measure_bandwidth` by default); on a GPU
    nothing is measured.
    """
    try:
        engine_command(config.distributed_executor_backend)
        check_extras(config)
        text = load_text(config, None)
        model = with_draft(describe_model(config, Shard(0, config.tensor_parallel_size), weights=False), weights=False)
        check(model)
        cpu_ops(config.cpu_isa, 1)
    except (ModelError, ConfigError) as error:
        return Fit(False, "The model cannot be used.", {"error": str(error)})
    chat = "none: requests of chats are refused" if text.template is None else "yes"
    vocabulary = "none" if text.tokenizer is None else f"{text.tokenizer.vocab_size:,} tokens"
    facts = _model_facts(model) | {"tokenizer": vocabulary, "chat template": chat}
    local_ranks = config.local_ranks
    try:
        plan = model.plan(machine, local_ranks * config.data_parallel_size)
    except (ModelError, ConfigError) as error:
        return Fit(False, f"The model does not fit: {error}", facts)
    pool = _pool_facts(plan.pool, model)
    if config.device == "cuda":
        each = f"{gib(model.weight_bytes)} of weights, {gib(plan.pool.total_bytes)} of keys and values"
        pool |= {"on each GPU": each} if config.tensor_parallel_size > 1 else {}
        return Fit(True, "The model fits.", facts | pool)
    speed = _speed_facts(model, plan.num_threads * local_ranks, machine.cache_bytes, measure or measure_bandwidth)
    return Fit(True, "The model fits.", facts | pool | speed)


def _model_facts(model: Description) -> dict[str, str]:
    config = model.config
    kv_dtype = model.kv_dtype
    token_bytes = config.kv_bytes_per_token(kv_dtype)
    files = {read.info.file for read in model.reads or ()}
    kinds: str = model.format
    if (model.settings.dtype, model.settings.quantization) == ("auto", None):
        kinds = ", ".join(kinds_of(model.formats)) + ", the checkpoint's own type"
    facts = {
        "path": str(model.source.path),
        "architecture": f"{config.architecture}, {config.num_layers} layers, hidden size {config.hidden_size}",
        "parameters": f"{config.num_parameters() / 1e6:,.1f} million",
        "weight files": f"{sum(path.stat().st_size for path in files) / 1e6:,.0f} MB" if files else "none at hand",
        "weights": f"{gib(weight_bytes(config, model.formats))} as {kinds}",
        "context": f"{model.max_len:,} tokens",
        "keys and values": f"{gib(token_bytes)} per token as {kv_dtype}, {gib(token_bytes * model.max_len)} for a "
        "full context",
    }
    scheme = read_scheme(model.source.document("config.json"), model.source.where("config.json"))
    if scheme is not None:
        facts["quantization"] = str(scheme)
    if config.experts is not None:
        layers = sum(layer.experts is not None for layer in config.layers)
        chosen, count = config.experts.routing.top_k, config.experts.count
        facts["experts"] = f"{count} in {layers} of {config.num_layers} layers; a token uses {chosen} of a layer"
    switch_len = config.switch_len(model.max_len)
    if switch_len is not None:
        facts["rotary embedding"] = rotary_rule(switch_len)
    if model.reads is None and model.settings.load_format != "dummy":
        facts["weight files"] = "not fetched yet, so not looked at"
    return facts


def _pool_facts(pool: PoolSize, model: Description) -> dict[str, str]:
    full, most = pool.pool_tokens // model.max_len, model.settings.max_num_seqs
    offload = model.settings.kv_offload_bytes or 0
    tier = offload // pool.page_bytes * pool.page_size
    where = model.settings.kv_offload_path or "memory"
    return {
        "pool": f"{gib(pool.total_bytes)}, {pool.pool_tokens:,} tokens in pages of {pool.page_size}",
        **({"host tier": f"{gib(offload)} in {where}, {tier:,} tokens"} if offload else {}),
        "requests": f"{min(full, most)} of full context at once, {most} at most",
    }


def _speed_facts(
    model: Description, num_threads: int, cache_bytes: int, measure: Callable[[int, int], float]
) -> dict[str, str]:
    """One iteration reads every weight once (of experts those in use), so memory bounds the speed of weights that are
    larger than the caches. The probe is as large as they are."""
    whole, most = read_bytes(model.config, model.formats), model.settings.max_num_seqs
    reads = expert_reads(model.config, model.formats)
    probe_bytes = max(2**12, min(PROBE_BYTES, whole))
    bandwidth = measure(num_threads, probe_bytes)
    read = f"{bandwidth / 1e9:.1f} GB/s read, {gib(probe_bytes)} again and again by {num_threads} threads"
    speeds = f"{bandwidth / (whole * reads.share(1)):,.0f} iterations/s"
    facts = {"memory bandwidth": read}
    if reads.part:
        one, many = (gib(whole * reads.share(rows)) for rows in (1, most))
        facts["reads"] = f"{one} of {gib(whole)} of weights for one token, {many} for {most}: the experts in use"
        speeds += f" with one request, {bandwidth / (whole * reads.share(most)):,.0f} with {most}"
    if whole < BOUND_CACHES * cache_bytes:
        bound = (
            f"none: the caches hold {gib(cache_bytes)}, much or all of the {gib(whole)} of weights that an "
            "iteration reads, so memory does not limit it"
        )
    else:
        bound = f"{speeds}, if only reading weights took time; each gives a token to every request that is generating"
    return facts | {"upper bound": bound}


def gib(num_bytes: float) -> str:
    """A size for people: GiB from 1 GiB on, else MiB or KiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 2**10:.1f} KiB"


def measure_bandwidth(threads: int, probe_bytes: int = PROBE_BYTES) -> float:
    """Bytes per second at which so many bytes are read by the kernels' threads; the best round."""
    runner = CpuOps("auto", threads).runner
    probe = np.ones(probe_bytes // 4, dtype=np.float32)
    return probe.nbytes / best_mean(lambda: runner.read(address(probe), probe.nbytes), PROBE_SECONDS)
