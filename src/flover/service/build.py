"""Makes an engine from a configuration: loads the model onto the device and sizes the scheduler after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flover.config import EngineConfig
from flover.config.speculative import read_speculation
from flover.engine.executor import Executor
from flover.engine.loop import Engine
from flover.engine.roster import SchedulerConfig
from flover.engine.strategy import Strategy
from flover.errors import ConfigError
from flover.executor.background import overlapping
from flover.executor.detect import resolve_device
from flover.executor.device import DeviceExecutor
from flover.executor.load import load_device
from flover.extras import need
from flover.observe.trace import Trace
from flover.request import ModelFacts
from flover.service.kept_prefixes import KeptPrefixes, fingerprint


def build_engine(
    config: EngineConfig, progress: Callable[[int, int], None], clock: Callable[[], float] = time.perf_counter
) -> Engine:
    """Load the model; `progress(done, total)` is called with bytes of weights. With `config.trace` everything that
    happens is written down. Raises `ModelError`, `ConfigError`."""
    config = resolve_device(config)
    trace = None if config.trace is None else Trace(Path(config.trace))
    if trace is not None:
        clock = trace.clock(clock)
    device = _load(config, progress)
    executor = overlapping(device) if config.async_scheduling else device
    engine = Engine(executor, scheduler_config(config, executor.facts), clock)
    if config.kv_offload_persistent and isinstance(device, DeviceExecutor) and device.store is not None:
        engine.observe(KeptPrefixes(device.store, fingerprint(config, device.facts), device.facts.vocab_size))
    if trace is not None:
        trace.attach(engine, config)
    return engine


def check_extras(config: EngineConfig) -> None:
    """Raises `ConfigError` if a package that `config` needs is missing."""
    if config.tensor_parallel_size > 1:
        need("torch", "parallel", f"--tensor-parallel-size {config.tensor_parallel_size}")


def load_executor(config: EngineConfig, progress: Callable[[int, int], None]) -> Executor:
    """The model on one device, or shared by as many ranks as `config` says. Raises `ConfigError`, `ModelError`."""
    executor = _load(config, progress)
    return overlapping(executor) if config.async_scheduling else executor


def _load(config: EngineConfig, progress: Callable[[int, int], None]) -> Executor:
    if config.distributed_executor_backend == "ray":
        raise ConfigError("--distributed-executor-backend ray is for flover serve: Ray has to start the engine")
    if config.tensor_parallel_size == 1:
        return load_device(config, progress)
    check_extras(config)
    from flover.parallel.launch import load_group

    return load_group(config, progress)


def scheduler_config(config: EngineConfig, facts: ModelFacts) -> SchedulerConfig:
    """The limits that the scheduler keeps for a loaded model."""
    return SchedulerConfig(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        page_size=facts.page_size,
        num_pages=facts.pool_tokens // facts.page_size + 1,
        num_slots=facts.num_slots,
        page_bytes=facts.page_bytes,
        max_model_len=facts.max_model_len,
        eos_ids=tuple(facts.eos_ids),
        switch_len=facts.switch_len,
        enable_prefix_caching=config.enable_prefix_caching,
        policy=config.scheduling_policy,
        strategy=Strategy(config.strategy),
        batch_window=config.batch_window_ms / 1e3,
        reorder=config.reorder,
        target_itl_ms=config.target_itl_ms,
        async_scheduling=bool(config.async_scheduling),
        speculation=None if config.speculative_config is None else read_speculation(config.speculative_config),
    )
