"""Models of text and images whose text model alone is run: which of them, and how its config is found in theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flover.files import shown
from flover.model.fields import Fields

_OUTER = ("eos_token_id", "dtype", "torch_dtype", "tie_word_embeddings", "quantization_config")
"""What a config.json says of the whole model, and so of its text model, unless that says it itself."""
PREFIXES = ("language_model.model.", "language_model.", "model.language_model.")
"""How the text model's tensors begin, in the place of the prefix that they have by themselves."""
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.")
"""How tensors of the other parts begin, perhaps behind the prefix of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """The `model_type` of the whole, those that its text model may have, the first by default, and transformers' own
    values (`defaults`) for fields that the text model's section leaves out."""

    model_type: str
    text_types: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)


TEXT_PARTS: Mapping[str, TextPart] = MappingProxyType(
    {
        "Gemma3ForConditionalGeneration": TextPart(
            model_type="gemma3",
            text_types=("gemma3_text",),
            defaults={"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208},
        ),
        "Mistral3ForConditionalGeneration": TextPart(model_type="mistral3", text_types=("mistral", "ministral3")),
    }
)


def text_part(data: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """The config of the text model in a config of text and images; None for any other. Raises `ModelError`."""
    named = data.get("architectures") or [None]
    names = set(named if isinstance(named, list) else ())
    whole = next((part for name, part in TEXT_PARTS.items() if name in names), None)
    if whole is None:
        return None
    fields = Fields(data, where)
    if data.get("model_type", whole.model_type) != whole.model_type:
        raise fields.error("model_type", f"must be {whole.model_type}, got {shown(data['model_type'])}")
    section = fields.section("text_config")
    if section is None:
        raise fields.error("text_config", "is missing: it says what the text model is")
    kind = section.get("model_type", whole.text_types[0])
    if kind not in whole.text_types:
        raise fields.error(
            "text_config", f"has model_type {shown(kind)}, but only {', '.join(whole.text_types)} is supported here"
        )
    outer = {name: data[name] for name in _OUTER if name in data}
    found = {**whole.defaults, **outer, **{name: value for name, value in section.items() if value is not None}}
    return found | {"architectures": None, "model_type": kind}
