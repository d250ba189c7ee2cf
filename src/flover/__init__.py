"""Flover: a temporal-fusion inference engine for autoregressive language models.

    from flover import LLM, SamplingParams

Names are imported when they are first used, so that `import flover` costs nothing and brings no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes longer than the rest of this file
if TYPE_CHECKING:
    from typing import Any

    from flover.config import EngineConfig
    from flover.errors import ConfigError, EngineDeadError, EngineError, FloverError, ModelError, RequestError
    from flover.llm.llm import LLM
    from flover.llm.outputs import CompletionOutput, Logprob, RequestOutput
    from flover.lora import LoRARequest
    from flover.request import SamplingParams
    from flover.structured_outputs import StructuredOutputsParams

_HOMES = {
    "LLM": "flover.llm.llm",
    "LoRARequest": "flover.lora",
    "SamplingParams": "flover.request",
    "StructuredOutputsParams": "flover.structured_outputs",
    "RequestOutput": "flover.llm.outputs",
    "CompletionOutput": "flover.llm.outputs",
    "Logprob": "flover.llm.outputs",
    "EngineConfig": "flover.config",
    "FloverError": "flover.errors",
    "RequestError": "flover.errors",
    "ConfigError": "flover.errors",
    "ModelError": "flover.errors",
    "EngineError": "flover.errors",
    "EngineDeadError": "flover.errors",
    "EngineClosedError": "flover.errors",
}

__all__ = [
    "LLM",
    "CompletionOutput",
    "ConfigError",
    "EngineClosedError",
    "EngineConfig",
    "EngineDeadError",
    "EngineError",
    "FloverError",
    "LoRARequest",
    "Logprob",
    "ModelError",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flover' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
