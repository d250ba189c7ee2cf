"""From a Hugging Face config dict to a `ModelConfig`, by the row of its family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flover.errors import ModelError
from flover.files import shown
from flover.generation_config import read_eos_ids
from flover.model.config import Activation, ModelConfig, Residual
from flover.model.config_keys import check_keys
from flover.model.families import ACTIVATIONS, Family, Flag
from flover.model.fields import Fields
from flover.model.hf_family import read_family, read_keys
from flover.model.hf_layers import read_layers
from flover.model.hf_scales import read_scales
from flover.source import GGUF_SUFFIX, ModelSource, open_source
from flover.source.quantization import read_scheme

MAX_LAYERS = 10_000
"""More layers than any model has: a damaged file must not make us build their descriptions."""
MAX_HEADS = 2**16
MAX_HEAD_DIM = 2**14
MAX_WIDTH = 2**24
MAX_CONTEXT = 2**24
"""Tokens of the longest context: a row has a page table for all of it."""


def read_model_directory(path: Path) -> tuple[Family, ModelConfig]:
    """Family and config of the model at `path`, as `read_model` finds them without a tokenizer."""
    return read_model(open_source(path), None)


def read_model(source: ModelSource, tokenizer: ModelSource | None) -> tuple[Family, ModelConfig]:
    """Family and config of a model; what ends a sequence is also in generation_config.json
    and with its `tokenizer`, if there is one.

    Raises `ModelError` if the files are missing or damaged, or say something that Flover does not run.
    """
    if not source.has("config.json"):
        adapter = source.has("adapter_config.json")
        why = "it holds an adapter; merge it into its base model" if adapter else "it is not the directory of a model"
        if source.path.is_dir() and (files := sorted(source.path.glob(f"*{GGUF_SUFFIX}"))):
            why = f"it holds GGUF files; give one of them as the model, such as {files[0]}"
        raise ModelError(f"{source.path} has no config.json: {why}")
    family, config = read_config(source.document("config.json"), source.where("config.json"))
    return family, replace(config, eos_ids=read_eos_ids(source, tokenizer, config.vocab_size))


def read_config(data: Mapping[str, Any], where: str = "config.json") -> tuple[Family, ModelConfig]:
    """Family and config of a config dict, as transformers 4 or 5 writes it. `where` names it in errors."""
    architecture, family, fields = read_family(data, where)
    read_scheme(fields.data, where)
    names = family.names
    num_layers = fields.integer(names.num_layers, most=MAX_LAYERS)
    num_heads = fields.integer(names.num_heads, most=MAX_HEADS)
    hidden_size = fields.integer(names.hidden_size, most=MAX_WIDTH)
    head_dim = _head_dim(fields, family, hidden_size, num_heads)
    max_len = fields.integer(names.max_len, family.default_max_len, most=MAX_CONTEXT)
    vocab_size = fields.integer("vocab_size")
    check_keys(fields, read_keys(family), num_layers, guest=fields.data.get("model_type") in family.model_types[1:])
    config = ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        layers=read_layers(fields, family, num_layers, head_dim, max_len),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(fields, family, num_heads),
        head_dim=head_dim,
        intermediate_size=_intermediate_size(fields, family, hidden_size),
        vocab_size=vocab_size,
        max_position_embeddings=max_len,
        norm=family.norm,
        norm_eps=_norm_eps(fields, family),
        activation=_activation(fields, family),
        gated=family.gated,
        residual=_residual(fields, family),
        qkv_bias=_switch(fields, family.qkv_bias),
        attention_out_bias=_switch(fields, family.attention_out_bias),
        mlp_bias=_switch(fields, family.mlp_bias),
        head_bias=family.head_bias,
        tied_embeddings=fields.flag("tie_word_embeddings", family.default_tied),
        qk_norm=family.qk_norm,
        sinks=family.sinks,
        learned_positions=family.positions == "learned",
        embedding_norm=family.embedding_norm,
        norm_bias=family.norm_bias,
        norm_weight=family.norm_weight,
        eos_ids=_possible_ids(fields.ids("eos_token_id"), vocab_size),
        checkpoint_dtype=_dtype(fields),
    )
    return family, read_scales(fields, family, config)


def _dtype(fields: Fields) -> str:
    """The type that the file announces; one for each part of a model is a mapping."""
    value = fields.data.get("dtype", fields.data.get("torch_dtype"))
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    if value is not None and not isinstance(value, str):
        raise fields.error("dtype", f"must be the name of a type, got {shown(value)}")
    return value or "float32"


def _switch(fields: Fields, switch: bool | Flag) -> bool:
    return fields.flag(switch.name, switch.default) if isinstance(switch, Flag) else switch


def _activation(fields: Fields, family: Family) -> Activation:
    name = family.names.activation
    if family.activation is not None:
        return family.activation
    activation = family.default_activation if name is None else fields.text(name, family.default_activation)
    activation = family.activations.get(activation, activation)
    if activation not in ACTIVATIONS:
        raise fields.error(
            name or "activation", f"{activation!r} is not supported; supported: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[activation]


def _residual(fields: Fields, family: Family) -> Residual:
    if isinstance(family.residual, Flag):
        return family.parallel if _switch(fields, family.residual) else "sequential"
    return family.residual


def _norm_eps(fields: Fields, family: Family) -> float:
    name = family.names.norm_eps
    return family.default_norm_eps if name is None else fields.positive(name, family.default_norm_eps, most=1)


def _head_dim(fields: Fields, family: Family, hidden_size: int, num_heads: int) -> int:
    name = family.names.head_dim
    if name is not None and fields.has(name):
        return fields.integer(name, most=MAX_HEAD_DIM)
    if family.default_head_dim is not None:
        return family.default_head_dim
    if hidden_size % num_heads:
        raise fields.error(
            family.names.hidden_size, f"({hidden_size}) must be a multiple of {family.names.num_heads} ({num_heads})"
        )
    return hidden_size // num_heads


def _num_kv_heads(fields: Fields, family: Family, num_heads: int) -> int:
    name = family.names.num_kv_heads
    if _switch(fields, family.multi_query):
        return 1
    if name is None:
        return num_heads
    num_kv_heads = fields.integer(name, num_heads, most=MAX_HEADS)
    if num_heads % num_kv_heads:
        raise fields.error(name, f"({num_kv_heads}) must divide {family.names.num_heads} ({num_heads})")
    return num_kv_heads


def _intermediate_size(fields: Fields, family: Family, hidden_size: int) -> int:
    name = family.names.intermediate_size
    default = None if family.inner_factor is None else family.inner_factor * hidden_size
    if name is None:
        assert default is not None
        return default
    width = fields.integer(name, default, most=MAX_WIDTH)
    if width % family.inner_divisor:
        raise fields.error(name, f"must be a multiple of {family.inner_divisor}, got {width}")
    return width // family.inner_divisor


def _possible_ids(ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Ids outside the vocabulary can never be generated: small test models keep GPT-2's default."""
    return tuple(token for token in ids if 0 <= token < vocab_size)
