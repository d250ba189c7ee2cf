"""Which family's row a Hugging Face config is read by, and what that row reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flover.errors import ModelError
from flover.files import shown
from flover.model.families import Family, Flag, Variant
from flover.model.family_rows import FAMILIES
from flover.model.fields import Fields
from flover.model.hf_experts import SOME_LAYERS
from flover.model.text_parts import OTHER_PARTS, PREFIXES, TEXT_PARTS, text_part


def read_family(data: Mapping[str, Any], where: str) -> tuple[str, Family, Fields]:
    """The name of a config's architecture, its row, and the config's fields under the names that the row has.

    Raises `ModelError` for what no row computes.
    """
    text = text_part(data, where)
    architecture, family = _find_family(Fields(data if text is None else text, where))
    if text is not None:
        family = dataclasses.replace(family, other_prefixes=PREFIXES, other_parts=OTHER_PARTS)
        data = text
    fields = Fields(_own_names(_flat(data, family, where), family, where), where)
    for name in family.per_layer:
        values = fields.data.get(name)
        if isinstance(values, list) and values and values == values[:1] * len(values):
            fields = Fields({**fields.data, name: values[0]}, where)
    for variant in family.variants:
        if _has_value(fields, variant):
            family = dataclasses.replace(family, **variant.changes)
    for name, value in family.required.items():
        if fields.has(name) and fields.data[name] != value:
            raise fields.error(name, f"is {shown(fields.data[name])}: this architecture is only computed with {value}")
    for name in family.needed:
        if not fields.has(name):
            raise fields.error(name, "is missing: without it, this architecture computes something else")
    for name, other in family.same_as.items():
        if fields.has(name) and fields.data[name] != fields.data.get(other):
            raise fields.error(name, f"is {shown(fields.data[name])}: this architecture is only computed with {other}")
    return architecture, family, fields


def _has_value(fields: Fields, variant: Variant) -> bool:
    if variant.value is None or not fields.has(variant.name):
        return variant.value is None and not fields.has(variant.name)
    wanted, name = variant.value, variant.name
    return (fields.flag(name, False) if isinstance(wanted, bool) else fields.integer(name)) == wanted


def _flat(data: Mapping[str, Any], family: Family, where: str) -> Mapping[str, Any]:
    section = Fields(data, where).section(family.section) if family.section else None
    return {**section, **data} if section else data


def _find_family(fields: Fields) -> tuple[str, Family]:
    """The name of an architecture and its row, by `architectures` and `model_type`, which must agree. Without
    `architectures` the type decides, as in transformers."""
    named = fields.data.get("architectures")
    supported = f"supported: {', '.join((*FAMILIES, *TEXT_PARTS))}"
    if named is not None and not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise fields.error("architectures", f"must name the architecture, got {shown(named)}; {supported}")
    kind = fields.text("model_type") if fields.has("model_type") else None
    if not named:
        for architecture, family in FAMILIES.items():
            if kind in family.model_types and not family.by_architecture:
                return architecture, family
        said = f"and model_type {shown(kind)} is none that is supported" if kind else "and there is no model_type"
        raise fields.error("architectures", f"must name the architecture, got {shown(named)}, {said}; {supported}")
    for architecture, family in FAMILIES.items():
        if architecture in named or set(family.aliases) & set(named):
            if kind is not None and kind not in family.model_types:
                raise fields.error(
                    "model_type", f"{shown(kind)} is another computation than that of {architecture}, and not supported"
                )
            return architecture, family
    raise ModelError(f"{fields.where}: architecture {shown(', '.join(named))} is not supported; {supported}")


def _own_names(data: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """The config with the family's own names where it uses others that transformers reads too."""
    own = dict(data)
    for other, name in family.other_names.items():
        value = own.pop(other, None)
        if value is None:
            continue
        if own.get(name) is not None and own[name] != value:
            raise ModelError(f"{where}: {other} and {name} are the same number, but they differ")
        own[name] = value
    return own


def read_keys(family: Family) -> frozenset[str]:
    """The keys among those of `config_keys.py` that the family's row reads, or that say what it computes anyway."""
    names = family.names
    keys = {names.max_len, *family.rotary_names, *family.neutral, *family.scales.all, *family.required, *family.same_as}
    keys |= {*family.needed} - {"layer_types"}  # of one kind, as `check_keys` has it
    keys |= {variant.name for variant in family.variants}
    optional = names.norm_eps, names.num_kv_heads, names.head_dim, names.activation
    keys |= {name for name in optional if name is not None}
    if isinstance(family.residual, Flag):
        keys.add(family.residual.name)
    if family.positions == "rotary_interleaved":
        keys.add("rotary_dim")
    if family.window != "none":
        keys.add("layer_types")
    if family.window == "pattern":
        keys.add("sliding_window_pattern")
    if family.local_theta is not None:
        keys.add(family.local_theta[0])
    if family.scale_name is not None:
        keys.add(family.scale_name)
    if family.experts is not None:
        keys |= {family.experts.count, *(SOME_LAYERS if family.experts.some_layers else ())}
        keys |= {name for name in (family.experts.shared_intermediate_size,) if name is not None}
    if family.softcaps is not None:
        keys |= {"attn_logit_softcapping", "final_logit_softcapping"}
    if family.rotary_layers == "listed":
        keys |= {"no_rope_layers", "no_rope_layer_interval"}
    return frozenset(keys)
