"""Which LoRA adapter a request is computed with."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """An adapter as callers of `LLM` name it, with vLLM's fields: one directory is one `lora_int_id`."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class LoraAdapter(msgspec.Struct, frozen=True):
    """An adapter as it was when it was loaded: `digest` is that of its files, and `generation` counts the times that a
    name was loaded, so that no request meets what another generation has left in a cache."""

    name: str
    path: str
    digest: str
    generation: int = 0


_ADAPTER, _TEXT = "lora:", "text:"


def cache_salt(salt: str, adapter: LoraAdapter | None) -> str:
    """What separates prefixes of requests with this salt and adapter from all others. No salt of a client can be that
    of an adapter."""
    if adapter is None:
        return f"{_TEXT}{salt}" if salt.startswith((_ADAPTER, _TEXT)) else salt
    name = f"{len(adapter.name)}:{adapter.name}"
    return f"{_ADAPTER}{adapter.digest}:{adapter.generation}:{name}:{salt}"
