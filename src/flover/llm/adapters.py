"""The adapters that callers of `LLM` name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flover.errors import wrong_value
from flover.lora import LoraAdapter, LoRARequest
from flover.request import SamplingParams
from flover.source.peft import find_adapter


class NamedAdapters:
    """What each `LoRARequest` was when it was first used: a directory is read once."""

    def __init__(self) -> None:
        self._found: dict[LoRARequest, LoraAdapter] = {}

    def join(self, params: Sequence[SamplingParams], asked: Sequence[Any]) -> list[SamplingParams]:
        """The parameters of each request with its adapter. Raises `RequestError`, and `ModelError` for a directory that
        is no adapter."""
        named = {one for one in asked if one is not None and _is_named(one)}
        for one in named - self._found.keys():
            self._found[one] = find_adapter(one.lora_name, one.lora_path, one.lora_int_id)
        return [
            params[place] if one is None else params[place].replace(lora=self._found[one])
            for place, one in enumerate(asked)
        ]


def _is_named(value: Any) -> bool:
    if not isinstance(value, LoRARequest):
        raise wrong_value("lora_request", "a LoRARequest", value)
    return True
