"""Loads what the server needs before its first request: tokenizer, chat template and engines, with progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from flover.config import EngineConfig
from flover.generation_config import SamplingDefaults, read_sampling_defaults
from flover.ipc.spawn import Spawned
from flover.model.locate import locate_model, locate_tokenizer
from flover.progress import loading_bar
from flover.server.app_state import AppState
from flover.service.listener import SupervisorListener
from flover.service.supervisor import Supervisor
from flover.text.chat import ChatTemplate
from flover.text.files import read_template
from flover.text.messages import MAX_MESSAGES
from flover.text.tokenizer import Tokenizer


async def load(
    state: AppState, config: EngineConfig, command: Sequence[str], spawned: Spawned | None, console: Console
) -> Supervisor:
    """Load the text side, then the engines, and let requests in. Raises `ConfigError`, `ModelError`, `EngineError`."""
    tokenizer, template, defaults = await asyncio.to_thread(
        load_text, config, state.config.chat_template, state.config.limits.max_messages
    )
    with loading_bar(config.model, console) as progress:
        supervisor = await Supervisor.start(
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
    state.open(supervisor, tokenizer, template, defaults)
    return supervisor


def load_text(
    config: EngineConfig, template_path: str | None, max_messages: int = MAX_MESSAGES
) -> tuple[Tokenizer | None, ChatTemplate | None, SamplingDefaults]:
    """The tokenizer, the chat template, and the model's default sampling parameters."""
    folder = locate_model(config.model, config.revision, config.download_dir, weights=False)
    defaults = read_sampling_defaults(folder)
    tokenizer_folder = locate_tokenizer(config)
    if tokenizer_folder is None:
        return None, None, defaults
    tokenizer = Tokenizer.load(tokenizer_folder)
    source = tokenizer.chat_template if template_path is None else read_template(Path(template_path))
    if source is None:
        return tokenizer, None, defaults
    template = ChatTemplate(source, special_tokens=tokenizer.special_tokens, max_messages=max_messages)
    return tokenizer, template, defaults
