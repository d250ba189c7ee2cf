"""What the server knows of a model without its weights: tokenizer, chat template, recommended sampling values.

Imports little: `flover serve` loads these before it imports the rest of the server, while the engine starts. A
tokenizer takes more memory while it is made than afterwards, and what is imported later does not lie between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flover.config import EngineConfig, ServerConfig
from flover.generation_config import SamplingDefaults, read_sampling_defaults
from flover.heap import return_freed_memory
from flover.model.locate import locate_model, locate_tokenizer
from flover.source import open_source
from flover.text.files import read_template
from flover.text.messages import MAX_MESSAGES
from flover.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from flover.text.chat import ChatTemplate


@dataclass(frozen=True, slots=True)
class TextSide:
    """No tokenizer if there shall be none, no template if there is none."""

    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    defaults: SamplingDefaults


def fetch_and_load_text(config: EngineConfig, server: ServerConfig) -> TextSide:
    """`load_text` once the model is here: a GGUF file has its text side inside. The engine may be fetching it too."""
    locate_model(config.model, config.revision, config.download_dir, weights=config.load_format != "dummy")
    loaded = load_text(config, server.chat_template, server.limits.max_messages)
    return_freed_memory()  # a tokenizer takes far more while it is made
    return loaded


def load_text(config: EngineConfig, template_path: str | None, max_messages: int = MAX_MESSAGES) -> TextSide:
    """Load the text side; fetches no weights. Raises `ModelError`."""
    path = locate_model(config.model, config.revision, config.download_dir, weights=False)
    model = open_source(path)
    defaults = read_sampling_defaults(model)
    own = locate_tokenizer(config)
    if own is None:
        return TextSide(None, None, defaults)
    tokenizer = Tokenizer.read(model if own == path else open_source(own))
    from flover.text.chat import ChatTemplate  # here, so that the tokenizer is made before this takes memory

    source = tokenizer.chat_template if template_path is None else read_template(Path(template_path))
    if source is None:
        return TextSide(tokenizer, None, defaults)
    template = ChatTemplate(source, special_tokens=tokenizer.special_tokens, max_messages=max_messages)
    return TextSide(tokenizer, template, defaults)
