"""From a Hugging Face config dict to a `ModelConfig`, by the row of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flover.errors import ModelError
from flover.files import is_there, read_object
from flover.generation_config import read_eos_ids
from flover.model.config import ModelConfig, Residual, RopeConfig
from flover.model.families import ACTIVATIONS, FAMILIES, Family, Flag
from flover.model.fields import Fields
from flover.model.rope import read_rope

MAX_LAYERS = 10_000
"""More layers than any model has: a damaged file must not make us build their descriptions."""


def read_model_directory(path: Path, tokenizer: Path | None = None) -> tuple[Family, ModelConfig]:
    """Family and config of the model in a directory; what ends a sequence is also in generation_config.json and in the
    directory of its `tokenizer`, if there is one.

    Raises `ModelError` if the files are missing or damaged, or say something that Flover does not run.
    """
    file = path / "config.json"
    if not is_there(file):
        raise ModelError(f"{path} has no config.json: it is not the directory of a model")
    family, config = read_config(read_object(file), str(file))
    return family, replace(config, eos_ids=read_eos_ids(path, tokenizer, config.vocab_size))


def read_config(data: Mapping[str, Any], where: str = "config.json") -> tuple[Family, ModelConfig]:
    """Family and config of a config dict, as transformers 4 or 5 writes it. `where` names it in errors."""
    fields = Fields(data, where)
    architecture, family = _find_family(fields)
    for name in ("quantization_config", "compression_config"):
        if fields.has(name):
            raise fields.error(name, "is present: quantized checkpoints are not supported; float ones are")
    for name in family.refused:
        if fields.flag(name, False):
            raise fields.error(name, f"must not be true: {architecture} is supported without it")
    names = family.names
    num_layers, num_heads = fields.integer(names.num_layers, most=MAX_LAYERS), fields.integer(names.num_heads)
    hidden_size = fields.integer(names.hidden_size)
    head_dim = _head_dim(fields, family, hidden_size, num_heads)
    max_len = fields.integer(names.max_len, family.default_max_len)
    vocab_size = fields.integer("vocab_size")
    config = ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(fields, family, num_heads),
        head_dim=head_dim,
        intermediate_size=_intermediate_size(fields, family, hidden_size),
        vocab_size=vocab_size,
        max_position_embeddings=max_len,
        norm=family.norm,
        norm_eps=fields.positive(names.norm_eps, family.default_norm_eps),
        gated=family.gated,
        residual=_residual(fields, family),
        qkv_bias=_switch(fields, family.qkv_bias),
        attention_out_bias=_switch(fields, family.attention_out_bias),
        mlp_bias=_switch(fields, family.mlp_bias),
        head_bias=family.head_bias,
        tied_embeddings=fields.flag("tie_word_embeddings", family.default_tied),
        qk_norm=family.qk_norm,
        learned_positions=family.positions == "learned",
        rope=_rope(fields, family, head_dim, max_len),
        sliding_window=_windows(fields, family, num_layers),
        attention_scale=_scales(fields, head_dim, num_layers),
        eos_ids=_possible_ids(fields.ids("eos_token_id"), vocab_size),
        checkpoint_dtype=fields.text("dtype", fields.text("torch_dtype", "float32")),
    )
    activation = fields.text(names.activation, family.default_activation)
    if activation not in ACTIVATIONS:
        supported = ", ".join(ACTIVATIONS)
        raise fields.error(names.activation, f"{activation!r} is not supported; supported: {supported}")
    return family, replace(config, activation=ACTIVATIONS[activation])


def _find_family(fields: Fields) -> tuple[str, Family]:
    named = fields.data.get("architectures")
    supported = f"supported: {', '.join(FAMILIES)}"
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise fields.error("architectures", f"must name the architecture, got {named!r}; {supported}")
    for name in named:
        if name in FAMILIES:
            return name, FAMILIES[name]
    raise ModelError(f"{fields.where}: architecture {', '.join(named)} is not supported; {supported}")


def _switch(fields: Fields, switch: bool | Flag) -> bool:
    return fields.flag(switch.name, switch.default) if isinstance(switch, Flag) else switch


def _residual(fields: Fields, family: Family) -> Residual:
    if isinstance(family.residual, Flag):
        return "parallel" if _switch(fields, family.residual) else "sequential"
    return family.residual


def _head_dim(fields: Fields, family: Family, hidden_size: int, num_heads: int) -> int:
    name = family.names.head_dim
    if name is not None and fields.has(name):
        return fields.integer(name)
    if family.default_head_dim is not None:
        return family.default_head_dim
    if hidden_size % num_heads:
        raise fields.error(
            family.names.hidden_size, f"({hidden_size}) must be a multiple of {family.names.num_heads} ({num_heads})"
        )
    return hidden_size // num_heads


def _num_kv_heads(fields: Fields, family: Family, num_heads: int) -> int:
    name = family.names.num_kv_heads
    if name is None:
        return num_heads
    num_kv_heads = fields.integer(name, num_heads)
    if num_heads % num_kv_heads:
        raise fields.error(name, f"({num_kv_heads}) must divide {family.names.num_heads} ({num_heads})")
    return num_kv_heads


def _intermediate_size(fields: Fields, family: Family, hidden_size: int) -> int:
    name = family.names.intermediate_size
    return fields.integer(name, 4 * hidden_size if name == "n_inner" else None)


def _rope(fields: Fields, family: Family, head_dim: int, max_len: int) -> RopeConfig | None:
    if family.positions == "learned":
        return None
    if family.positions == "rotary_interleaved":
        dim = fields.integer("rotary_dim", 64)
        if dim % 2 or dim > head_dim:
            raise fields.error("rotary_dim", f"must be even and at most the head size {head_dim}, got {dim}")
        return RopeConfig(dim=dim, interleaved=True)
    theta_name, share_name = family.rotary_names
    return read_rope(
        fields,
        head_dim=head_dim,
        max_len=max_len,
        theta_name=theta_name,
        share_name=share_name,
        share=family.rotary_share,
    )


def _windows(fields: Fields, family: Family, num_layers: int) -> tuple[int | None, ...]:
    """The sliding window of every layer. A window that is null in the file is no window."""
    everywhere: tuple[int | None, ...] = (None,) * num_layers
    if family.window == "none" or (family.window == "by_layer" and not fields.flag("use_sliding_window", False)):
        return everywhere
    if "sliding_window" in fields.data and not fields.has("sliding_window"):
        return everywhere
    window = fields.integer("sliding_window", family.default_window)
    if family.window == "all":
        return (window,) * num_layers
    kinds = fields.data.get("layer_types")
    if kinds is None:
        first = fields.number("max_window_layers", 28)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(str(kind) not in known for kind in kinds):
        raise fields.error("layer_types", f"must hold {num_layers} of {', '.join(known)}, got {kinds!r}")
    return tuple(known[str(kind)] for kind in kinds)


def _scales(fields: Fields, head_dim: int, num_layers: int) -> tuple[float, ...]:
    """1/sqrt(head_dim), with GPT-2's two switches; no other family has them in its file."""
    scale = head_dim**-0.5 if fields.flag("scale_attn_weights", True) else 1.0
    if fields.flag("scale_attn_by_inverse_layer_idx", False):
        return tuple(scale / (layer + 1) for layer in range(num_layers))
    return (scale,) * num_layers


def _possible_ids(ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Ids outside the vocabulary can never be generated: small test models keep GPT-2's default."""
    return tuple(token for token in ids if 0 <= token < vocab_size)
