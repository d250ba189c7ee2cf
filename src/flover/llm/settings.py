"""The keyword arguments of `LLM`: which are Flover's, which are vLLM's and harmless, which cannot be honoured."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flover.config import EngineConfig
from flover.config.vllm import VLLM_SETTINGS

_SETTINGS = frozenset(item.name for item in fields(EngineConfig))


def engine_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are fields of `EngineConfig`, after a look at all the others.

    Raises `TypeError` for a name that neither Flover nor vLLM knows, and `ConfigError` for one of vLLM's that cannot be
    honoured.
    """
    for name, value in settings.items():
        if name in _SETTINGS:
            continue
        if name not in VLLM_SETTINGS:
            near = difflib.get_close_matches(name, sorted(_SETTINGS), n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(sorted(_SETTINGS))}"
            raise TypeError(f"LLM has no setting {name!r}{hint}")
        VLLM_SETTINGS[name].check(name, value)
    ours = {name: value for name, value in settings.items() if name in _SETTINGS}
    if isinstance(speculative := ours.get("speculative_config"), dict):  # vLLM's keyword is a dictionary
        ours["speculative_config"] = json.dumps(speculative)
    return ours
