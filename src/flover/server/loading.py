"""Loads what the server needs before its first request: tokenizer, chat template and engines, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flover.config import EngineConfig
from flover.generation_config import SamplingDefaults, read_sampling_defaults
from flover.heap import return_freed_memory
from flover.ipc.spawn import Spawned
from flover.model.locate import locate_model, locate_tokenizer
from flover.progress import loading_bar
from flover.server.app_state import AppState
from flover.server.embeddings import read_pooling
from flover.service.listener import SupervisorListener
from flover.service.supervisor import Supervisor
from flover.source import open_source
from flover.text.chat import ChatTemplate
from flover.text.files import read_template
from flover.text.messages import MAX_MESSAGES
from flover.text.tokenizer import Tokenizer


async def load(
    state: AppState, config: EngineConfig, command: Sequence[str], spawned: Spawned | None, console: Console
) -> Supervisor:
    """Load the text side beside the engines, and let requests in. Raises `ConfigError`, `ModelError` or
    `EngineError`: the error of the text side, if both fail."""
    starting = asyncio.create_task(_start_engines(state, config, command, spawned, console), name="engines")
    try:
        tokenizer, template, defaults = await asyncio.to_thread(
            _fetch_and_load_text, config, state.config.chat_template, state.config.limits.max_messages
        )
        supervisor = await starting
    except BaseException:
        await _abandon(starting)
        raise
    state.pooling = state.config.pooling_type or await asyncio.to_thread(_read_pooling, config)
    if state.config.prepare_structured_outputs and tokenizer is not None:
        supervisor.prepare(await asyncio.to_thread(lambda: tokenizer.vocabulary))
    state.open(supervisor, tokenizer, template, defaults)
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


def _fetch_and_load_text(
    config: EngineConfig, template_path: str | None, max_messages: int
) -> tuple[Tokenizer | None, ChatTemplate | None, SamplingDefaults]:
    """`load_text` once the model is here: a GGUF file has its text side inside. The engine may be fetching it too."""
    locate_model(config.model, config.revision, config.download_dir, weights=config.load_format != "dummy")
    loaded = load_text(config, template_path, max_messages)
    return_freed_memory()  # a tokenizer takes far more while it is made
    return loaded


def load_text(
    config: EngineConfig, template_path: str | None, max_messages: int = MAX_MESSAGES
) -> tuple[Tokenizer | None, ChatTemplate | None, SamplingDefaults]:
    """The tokenizer, the chat template, and the model's default sampling parameters. Fetches no weights."""
    path = locate_model(config.model, config.revision, config.download_dir, weights=False)
    model = open_source(path)
    defaults = read_sampling_defaults(model)
    own = locate_tokenizer(config)
    if own is None:
        return None, None, defaults
    tokenizer = Tokenizer.read(model if own == path else open_source(own))
    source = tokenizer.chat_template if template_path is None else read_template(Path(template_path))
    if source is None:
        return tokenizer, None, defaults
    template = ChatTemplate(source, special_tokens=tokenizer.special_tokens, max_messages=max_messages)
    return tokenizer, template, defaults
