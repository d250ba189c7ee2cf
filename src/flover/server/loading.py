"""What happens between the start of the server and its first request: tokenizer, template, engine, progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from flover.config import EngineConfig
from flover.generation_config import SamplingDefaults, read_sampling_defaults
from flover.ipc.spawn import Spawned
from flover.model.locate import locate_model, locate_tokenizer
from flover.server.door import Door
from flover.service.listener import SupervisorListener
from flover.service.supervisor import Supervisor
from flover.text.chat import ChatTemplate
from flover.text.files import read_template
from flover.text.messages import MAX_MESSAGES
from flover.text.tokenizer import Tokenizer


async def load(
    door: Door, config: EngineConfig, command: Sequence[str], spawned: Spawned | None, console: Console
) -> Supervisor:
    """Load the text side beside the engines, and open the door. Raises `ConfigError`, `ModelError`, `EngineError`: what
    the text side raises, if both do."""
    starting = asyncio.create_task(_start_engines(door, config, command, spawned, console), name="engines")
    try:
        text = await asyncio.to_thread(load_text, config, door.config.chat_template, door.config.limits.max_messages)
        engine = await starting
    except BaseException:
        await _abandon(starting)
        raise
    door.open(engine, *text)
    return engine


async def _start_engines(
    door: Door, config: EngineConfig, command: Sequence[str], spawned: Spawned | None, console: Console
) -> Supervisor:
    columns = (TextColumn("loading {task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(config.model, total=None)
        return await Supervisor.start(
            config,
            SupervisorListener(
                on_loading=lambda done, total: progress.update(bar, completed=done, total=total),
                on_stats=door.metrics.on_stats,
                on_iteration=door.live.put,
            ),
            command=command,
            spawned=spawned,
            stall_timeout=door.config.stall_timeout,
        )


async def _abandon(starting: asyncio.Task[Supervisor]) -> None:
    """Stop engines that start, or have started, for nothing."""
    starting.cancel()
    await asyncio.wait({starting})
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().close()


def load_text(
    config: EngineConfig, template_path: str | None, max_messages: int = MAX_MESSAGES
) -> tuple[Tokenizer | None, ChatTemplate | None, SamplingDefaults]:
    """The tokenizer, the template, and the sampling parameters that the model recommends."""
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
