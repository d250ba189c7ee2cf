"""Reads the documents beside a tokenizer: special tokens and chat template.

Their content is untrusted: sizes are bounded, types are checked, nothing is executed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flover.errors import ModelError
from flover.files import read_text
from flover.generation_config import token_text
from flover.source import ModelSource

MAX_CONFIG_BYTES = 16 * 2**20
MAX_TEMPLATE_BYTES = 128 * 2**10
"""Maximum size of a chat template, from the model or the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """The content of the files beside tokenizer.json; missing fields are empty.

    `special_tokens` maps names such as "bos_token" to the token's text. `special_texts` are the texts of all special
    tokens.
    """

    special_tokens: dict[str, str] = field(default_factory=dict)
    special_texts: frozenset[str] = frozenset()
    chat_template: str | None = None


def read_tokenizer_files(source: ModelSource) -> TokenizerFiles:
    """Read tokenizer_config.json, special_tokens_map.json and the template's own file.

    Raises `ModelError` naming a file that is damaged, too big or of wrong types.
    """
    config = source.document("tokenizer_config.json", MAX_CONFIG_BYTES)
    special_tokens_map = source.document("special_tokens_map.json", MAX_CONFIG_BYTES)
    special_tokens = _named_tokens(special_tokens_map) | _named_tokens(config)
    return TokenizerFiles(
        special_tokens=special_tokens,
        special_texts=frozenset(special_tokens.values()) | _more_special_texts(config, special_tokens_map),
        chat_template=_find_template(source, config),
    )


def read_template(path: Path) -> str:
    """The chat template in the file that --chat-template names. Raises `ModelError`."""
    return read_text(path, MAX_TEMPLATE_BYTES, folder=Path("/"))


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    named = {name: token_text(value) for name, value in config.items() if name.endswith("_token")}
    return {name: text for name, text in named.items() if text is not None}


def _more_special_texts(*configs: dict[str, Any]) -> frozenset[str]:
    texts: set[str | None] = set()
    for config in configs:
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = config.get(name)
            values = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ()
            texts.update(token_text(value) for value in values)
        added = config.get("added_tokens_decoder")
        if isinstance(added, dict):
            texts.update(token_text(value) for value in added.values() if _is_special(value))
    return frozenset(text for text in texts if text is not None)


def _is_special(value: Any) -> bool:
    return isinstance(value, dict) and value.get("special") is True


def _find_template(source: ModelSource, config: dict[str, Any]) -> str | None:
    """The model's chat template: from its own file, else from the configuration, where "default" is used."""
    own = source.text("chat_template.jinja", MAX_TEMPLATE_BYTES)
    if own is not None:
        return own
    value = source.document("chat_template.json", MAX_CONFIG_BYTES).get("chat_template", config.get("chat_template"))
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is None:
        return None
    if not isinstance(value, str):
        raise ModelError(f"the chat template in {source.path} must be text, got {type(value).__name__}")
    if len(value.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise ModelError(f"the chat template in {source.path} is larger than {MAX_TEMPLATE_BYTES} bytes")
    return value
