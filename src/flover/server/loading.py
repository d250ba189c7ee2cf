"""Loads what the server needs before its first request: tokenizer, chat template and engines, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flover.config import EngineConfig
from flover.heap import return_freed_memory
from flover.ipc.spawn import Spawned
from flover.model.locate import locate_model
from flover.progress import loading_bar
from flover.server.app_state import AppState
from flover.server.embeddings import read_pooling
from flover.server.text_side import TextSide, fetch_and_load_text
from flover.service.listener import SupervisorListener
from flover.service.supervisor import Supervisor


async def load(
    state: AppState,
    config: EngineConfig,
    command: Sequence[str],
    spawned: Spawned | None,
    console: Console,
    text: TextSide | None = None,
) -> Supervisor:
    """Load the text side (unless `text` is it) beside the engines, and let requests in. Raises
    `ConfigError`, `ModelError` or `EngineError`: the error of the text side, if both fail."""
    starting = asyncio.create_task(_start_engines(state, config, command, spawned, console), name="engines")
    try:
        if text is None:
            text = await asyncio.to_thread(fetch_and_load_text, config, state.config)
        modules = await asyncio.to_thread(state.adapters.find_modules)
        known, vocabulary = text.tokenizer, None
        if state.config.prepare_structured_outputs and known is not None:
            vocabulary = await asyncio.to_thread(lambda: known.vocabulary)
        supervisor = await starting
        await state.adapters.open(supervisor, modules)
    except BaseException:
        await _abandon(starting)
        raise
    state.pooling = state.config.pooling_type or await asyncio.to_thread(_read_pooling, config)
    if vocabulary is not None and supervisor.facts.eos_ids:  # without them no answer to a constraint ends
        supervisor.prepare(vocabulary)
        return_freed_memory()
    state.open(supervisor, known, text.template, text.defaults)
    return supervisor


def _read_pooling(config: EngineConfig) -> str | None:
    return read_pooling(Path(locate_model(config.model, config.revision, config.download_dir, weights=False)))


async def _start_engines(
    state: AppState, config: EngineConfig, command: Sequence[str], spawned: Spawned | None, console: Console
) -> Supervisor:
    with loading_bar(config.model, console) as progress:
        return await Supervisor.start(
            config,
            SupervisorListener(
                on_loading=progress,
                on_stats=state.metrics.on_stats,
                on_iteration=state.live.put,
            ),
            command=command,
            spawned=spawned,
            stall_timeout=state.config.stall_timeout,
        )


async def _abandon(starting: asyncio.Task[Supervisor]) -> None:
    """Stop engines that are starting, or have started, for a server that does not start."""
    starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().close()
