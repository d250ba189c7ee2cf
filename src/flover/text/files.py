"""The small JSON files beside a tokenizer: special tokens, chat template, default sampling parameters.

Everything in them is untrusted: sizes are bounded, types are checked, nothing is executed. This module does not know
how a tokenizer or a template works.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flover.errors import ModelError

MAX_CONFIG_BYTES = 16 * 2**20
MAX_TEMPLATE_BYTES = 128 * 2**10
"""Most bytes of a chat template, from the model or from the operator."""

_SAMPLING_DEFAULTS = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """What the files beside tokenizer.json say; fields that no file mentions are empty.

    `special_tokens` maps names such as "bos_token" to the token's text. `special_texts` are all texts that are to be
    treated as special. `add_bos` is None when the files leave it to tokenizer.json. `sampling_defaults` uses the
    names of `SamplingParams`.
    """

    special_tokens: dict[str, str] = field(default_factory=dict)
    special_texts: frozenset[str] = frozenset()
    add_bos: bool | None = None
    chat_template: str | None = None
    eos_ids: tuple[int, ...] = ()
    sampling_defaults: dict[str, float | int] = field(default_factory=dict)


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read tokenizer_config.json, special_tokens_map.json, generation_config.json and the template's own file.

    Raises `ModelError` naming the file that is damaged, too big or outside the expected types.
    """
    config = _read_object(folder / "tokenizer_config.json")
    special_tokens_map = _read_object(folder / "special_tokens_map.json")
    generation = _read_object(folder / "generation_config.json")
    special_tokens = _named_tokens(special_tokens_map) | _named_tokens(config)
    add_bos = config.get("add_bos_token")
    return TokenizerFiles(
        special_tokens=special_tokens,
        special_texts=frozenset(special_tokens.values()) | _more_special_texts(config, special_tokens_map),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=_find_template(folder, config),
        eos_ids=_eos_ids(generation),
        sampling_defaults=_sampling_defaults(generation),
    )


def read_sampling_defaults(folder: Path) -> dict[str, float | int]:
    """Sampling parameters that generation_config.json recommends. Raises `ModelError` if the file is damaged."""
    return _sampling_defaults(_read_object(folder / "generation_config.json"))


def read_template(path: Path) -> str:
    """A chat template from a file of its own. Raises `ModelError`."""
    return _read_text(path, MAX_TEMPLATE_BYTES)


def _read_text(path: Path, most: int) -> str:
    try:
        if path.stat().st_size > most:
            raise ModelError(f"{path} is larger than {most} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path, MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _token_text(value: Any) -> str | None:
    """A special token is written as its text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _named_tokens(config: dict[str, Any]) -> dict[str, str]:
    named = {name: _token_text(value) for name, value in config.items() if name.endswith("_token")}
    return {name: text for name, text in named.items() if text is not None}


def _more_special_texts(*configs: dict[str, Any]) -> frozenset[str]:
    texts: set[str | None] = set()
    for config in configs:
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = config.get(name)
            values = listed.values() if isinstance(listed, dict) else listed if isinstance(listed, list) else ()
            texts.update(_token_text(value) for value in values)
        added = config.get("added_tokens_decoder")
        if isinstance(added, dict):
            texts.update(_token_text(value) for value in added.values() if _is_special(value))
    return frozenset(text for text in texts if text is not None)


def _is_special(value: Any) -> bool:
    return isinstance(value, dict) and value.get("special") is True


def _find_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The model's chat template: its own file first, then the configuration's, where "default" is the one used."""
    if (folder / "chat_template.jinja").is_file():
        return read_template(folder / "chat_template.jinja")
    value = _read_object(folder / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    if value is None:
        return None
    if not isinstance(value, str):
        raise ModelError(f"the chat template in {folder} must be text, got {type(value).__name__}")
    if len(value.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
        raise ModelError(f"the chat template in {folder} is larger than {MAX_TEMPLATE_BYTES} bytes")
    return value


def _eos_ids(generation: dict[str, Any]) -> tuple[int, ...]:
    value = generation.get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    return tuple(token for token in ids if isinstance(token, int) and not isinstance(token, bool))


def _sampling_defaults(generation: dict[str, Any]) -> dict[str, float | int]:
    """The model's recommended sampling parameters; `max_new_tokens` is called `max_tokens` here."""
    found = {name: generation.get(name) for name in _SAMPLING_DEFAULTS}
    found["max_tokens"] = generation.get("max_new_tokens")
    return {
        name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
