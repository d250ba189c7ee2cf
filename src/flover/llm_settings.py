"""The keyword arguments of `LLM`: which are Flover's, which are vLLM's and harmless, which cannot be honoured."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flover.config import EngineConfig
from flover.errors import ConfigError

_SETTINGS = frozenset(item.name for item in fields(EngineConfig))

_ANYTHING: tuple[Any, ...] = ()
_VLLM_HARMLESS: dict[str, tuple[Any, ...]] = {
    "trust_remote_code": (False,),
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "enforce_eager": _ANYTHING,
    "disable_log_stats": _ANYTHING,
    "enable_chunked_prefill": (True, None),
    "tokenizer_mode": ("auto",),
    "tokenizer_revision": (None,),
    "device": ("auto", "cpu"),
    "cpu_offload_gb": (0,),
    "swap_space": (0,),
    "enable_lora": (False,),
    "generation_config": ("auto",),
    "config_format": ("auto",),
    "hf_overrides": (None,),
}
"""Settings of vLLM that are accepted with these values, because they then ask for what Flover does anyway."""

_VLLM_REFUSED: dict[str, str] = {
    "trust_remote_code": "code from a model repository is never run",
    "gpu_memory_utilization": "set kv_cache_memory_bytes, the size of the key/value pool",
    "enable_chunked_prefill": "prompts always join in chunks",
    "speculative_config": "there is no speculative decoding",
    "compilation_config": "there is nothing to compile",
    "disable_log_requests": "requests are never logged",
    "max_seq_len_to_capture": "there are no captured graphs",
}
"""Why a setting is refused; the others are simply not there."""


def engine_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are fields of `EngineConfig`, after a look at all the others.

    Raises `TypeError` for a name that nobody knows, and `ConfigError` for one of vLLM's that cannot be honoured.
    """
    for name, value in settings.items():
        if name in _SETTINGS:
            continue
        if name in _VLLM_HARMLESS:
            accepted = _VLLM_HARMLESS[name]
            if accepted == _ANYTHING or any(value is one or value == one for one in accepted):
                continue
            default = f"only {' or '.join(map(repr, accepted))} is supported"
            raise ConfigError(f"{name}={value!r}: {_VLLM_REFUSED.get(name, default)}")
        if name in _VLLM_REFUSED:
            raise ConfigError(f"{name}={value!r}: {_VLLM_REFUSED[name]}")
        near = difflib.get_close_matches(name, sorted(_SETTINGS), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(sorted(_SETTINGS))}"
        raise TypeError(f"LLM has no setting {name!r}{hint}")
    return {name: value for name, value in settings.items() if name in _SETTINGS}
