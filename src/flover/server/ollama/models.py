"""`/api/tags`, `/api/ps`, `/api/show` and `/api/version`: by these routes clients find the model."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from starlette.responses import Response

from flover.server.app_state import AppState
from flover.server.ollama.translate import OllamaShowBody
from flover.server.responses import json_response

API_VERSION = "0.13.0"
"""The version of Ollama whose API this is: some clients refuse older ones."""
NEVER = "9999-12-31T23:59:59Z"
_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "int4": 4}


def check_name(state: AppState, name: str | None) -> str:
    """The model's name for the answer: clients add `:latest` to one without a tag."""
    if name is not None and name not in state.model_names:
        name = name.removesuffix(":latest")
    return state.check_model(name)


def date(seconds: float) -> str:
    """A time as Ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def tags(state: AppState) -> Response:
    """The served model, under each of its names."""
    return json_response({"models": [_named(state, name) for name in state.model_names]})


def running(state: AppState) -> Response:
    """The served model, which stays in memory."""
    found = {"context_length": state.facts.max_model_len, "expires_at": NEVER, "size_vram": 0}
    return json_response({"models": [{**_named(state, name), **found} for name in state.model_names]})


def show(state: AppState, body: OllamaShowBody) -> Response:
    """What is known of the model."""
    name = check_name(state, body.model or body.name)
    facts, template = state.facts, state.template
    calls = template is not None and (state.output_format.tools is not None or not template.writes_tools)
    able = {
        "tools": calls,
        "thinking": state.output_format.reasoning is not None or state.output_format.is_harmony,
        "embedding": state.pooling is not None,
    }
    info = {
        "general.architecture": facts.architecture,
        "general.basename": name,
        "general.parameter_count": facts.num_parameters,
        f"{facts.architecture}.context_length": facts.max_model_len,
        f"{facts.architecture}.embedding_length": facts.hidden_size,
    }
    return json_response(
        {
            "modelfile": f"FROM {name}\n",
            "parameters": f"num_ctx {facts.max_model_len}",
            "template": "" if template is None else template.source,
            **_about(state),
            "model_info": info,
            "capabilities": ["completion", *(one for one, is_able in able.items() if is_able)],
        }
    )


def version(state: AppState) -> Response:
    """The version of the API."""
    return json_response({"version": API_VERSION})


def _named(state: AppState, name: str) -> dict[str, Any]:
    facts = state.facts
    size = facts.num_parameters * _BITS.get(facts.dtype, 16) // 8
    digest = sha256(f"{name} {facts.model} {facts.dtype}".encode()).hexdigest()
    return {"name": name, "model": name, "size": size, "digest": digest, **_about(state)}


def _about(state: AppState) -> dict[str, Any]:
    facts = state.facts
    return {
        "modified_at": date(state.created),
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": facts.architecture,
            "families": [facts.architecture],
            "parameter_size": _count(facts.num_parameters),
            "quantization_level": facts.dtype,
        },
    }


def _count(parameters: int) -> str:
    """A number of parameters as people write it: 7.2B, 253.4M."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}"
    return str(parameters)
