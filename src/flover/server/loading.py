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
from flover.source import open_source
from flover.text.chat import ChatTemplate
from flover.text.files import read_template
from flover.text.messages import MAX_MESSAGES
from flover.text.tokenizer import Tokenizer


async def load(
    door: Door, config: EngineConfig, command: Sequence[str], spawned: Spawned | None, console: Console
) -> Supervisor:
    """Load the text side, then the engines, and open the door. Raises `ConfigError`, `ModelError`, `EngineError`."""
    tokenizer, template, defaults = await asyncio.to_thread(
        load_text, config, door.config.chat_template, door.config.limits.max_messages
    )
    columns = (TextColumn("loading {task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(config.model, total=None)
        engine = await Supervisor.start(
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
    door.open(engine, tokenizer, template, defaults)
    return engine


def load_text(
    config: EngineConfig, template_path: str | None, max_messages: int = MAX_MESSAGES
) -> tuple[Tokenizer | None, ChatTemplate | None, SamplingDefaults]:
    """The tokenizer, the template, and the sampling parameters that the model recommends."""
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
