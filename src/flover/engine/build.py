"""Makes an engine from a configuration: loads the model onto the device and sizes the scheduler after it."""

from __future__ import annotations

import time
from collections.abc import Callable

from flover.config import EngineConfig
from flover.engine.device import DeviceExecutor
from flover.engine.loop import Engine
from flover.engine.roster import SchedulerConfig


def build_engine(
    config: EngineConfig, progress: Callable[[int, int], None], clock: Callable[[], float] = time.perf_counter
) -> Engine:
    """Load the model; `progress(done, total)` is called with bytes of weights. Raises `ModelError`, `ConfigError`."""
    executor = DeviceExecutor.load(config, progress)
    facts = executor.facts
    return Engine(
        executor,
        SchedulerConfig(
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            page_size=facts.page_size,
            num_pages=facts.pool_tokens // facts.page_size + 1,
            max_model_len=facts.max_model_len,
            eos_ids=tuple(facts.eos_ids),
            enable_prefix_caching=config.enable_prefix_caching,
            policy=config.scheduling_policy,
            reorder=config.reorder,
            target_itl_ms=config.target_itl_ms,
        ),
        clock,
    )
