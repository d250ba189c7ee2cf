"""Rotary frequencies: how config files of transformers 4 and 5 describe them, and the formula of every scaling.

The formulas follow transformers' `modeling_rope_utils` to the order of operations, so that float32 results agree.
Positions are not known here.

Two scalings depend on the length of the text: dynamic NTK and LongRoPE. A key is rotated once, when it enters its
page, so the length must not change afterwards. It is therefore decided by the most tokens that a request can come to
(prompt and max_tokens): up to the trained context (`RopeConfig.switch_len`) it turns as in the training, beyond it as
for the longest context the engine serves (`max_len`). The tokens of a request then do not depend on how it was
chunked, preempted or who shared its pages. Transformers, which looks at the text at hand, agrees as soon as both
lengths fall on the same side of the trained context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from flover.model.config import RopeConfig, RopeScaling
from flover.model.fields import Fields

MAX_THETA = 1e15
QUERY_BETA = "llama_4_scaling_beta"
_OLD_NAMES = {"su": "longrope"}  # what Phi-3's first configs called it


Floats = npt.NDArray[np.float32]


def read_rope(
    config: Fields,
    *,
    head_dim: int,
    max_len: int,
    interleaved: bool = False,
    theta_name: str = "rope_theta",
    share_name: str = "partial_rotary_factor",
    share: float | None = None,
    default_theta: float = 10_000.0,
    other_kinds: Mapping[str, str] = MappingProxyType({}),
    layer_kind: str | None = None,
    local: tuple[str, float] | None = None,
    ntk_alpha: bool = False,
    query_scaled: bool = False,
) -> RopeConfig:
    """The rotary embedding of a config dict, as `rope_parameters` (v5) or `rope_scaling` and `rope_theta` (v4).

    `theta_name` and `share_name` are the family's v4 names of the base and of the part of a head that turns. `share`
    is that part where the file has none; None says that the family turns whole heads only. `other_kinds` are names
    that the family has for kinds of scaling. With a `layer_kind` it is that of these layers alone; if they have a base
    of their own, `local` is its v4 name and default, and v4's scaling is not theirs.
    With `ntk_alpha` "dynamic" scaling may have an alpha, by which it raises the base whatever the length of the text.
    `query_scaled`: the dict also says how queries grow with their position.
    """
    parameters = Fields(_parameters(config, layer_kind, local is not None), f"{config.where}, rotary parameters")
    name, default = local or (theta_name, default_theta)
    theta = parameters.positive("rope_theta", config.positive(name, default, most=MAX_THETA), most=MAX_THETA)
    if theta <= 1:
        raise parameters.error("rope_theta", f"must be above 1, got {theta}")
    part = parameters.positive("partial_rotary_factor", config.positive(share_name, 1.0 if share is None else share))
    if share is None and part != 1.0:
        raise parameters.error("partial_rotary_factor", f"must be 1 for this architecture, got {part}")
    dim = int(head_dim * part)
    if dim % 2 or not 0 < dim <= head_dim:
        raise parameters.error(
            "partial_rotary_factor", f"turns {dim} of {head_dim} dimensions; it must be an even part"
        )
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    kind = other_kinds.get(kind, _OLD_NAMES.get(kind, kind))
    if ntk_alpha and kind == "dynamic" and parameters.has("alpha") and dim > 2:
        kind, theta = "default", theta * parameters.positive("alpha") ** (dim / (dim - 2))
    if kind not in get_args(RopeScaling):
        raise parameters.error("rope_type", f"{kind!r} is not supported; supported: {', '.join(get_args(RopeScaling))}")
    scaling = _scaling_fields(kind, parameters, config, dim, max_len)
    if query_scaled and kind == "yarn":
        scaling["query_beta"] = _query_beta(parameters, max_len // scaling["original_max_len"])
    elif parameters.has(QUERY_BETA):
        raise parameters.error(QUERY_BETA, "is there, but this architecture is not computed with it")
    return RopeConfig(dim=dim, theta=theta, interleaved=interleaved, scaling=cast(RopeScaling, kind), **scaling)


def _parameters(config: Fields, layer_kind: str | None, local: bool) -> Mapping[str, Any]:
    """The dict of rotary parameters; v5 may nest it by layer type, which must then all say the same unless that of one
    type is asked for."""
    found = config.section("rope_scaling") or config.section("rope_parameters") or {}
    nested = list(found.values())
    if not nested or not all(isinstance(value, dict) for value in nested):
        return {} if local else found
    if layer_kind is not None:
        return Fields(found, config.where).section(layer_kind) or {}
    if any(value != nested[0] for value in nested):
        raise config.error("rope_parameters", "differ between layer types, which is not supported")
    return cast(Mapping[str, Any], nested[0])


def _scaling_fields(kind: str, parameters: Fields, config: Fields, dim: int, max_len: int) -> dict[str, Any]:
    """The fields of `RopeConfig` that this kind of scaling uses."""
    if kind == "default":
        return {}
    if kind == "dynamic" and dim < 4:
        raise parameters.error("rope_type", f"'dynamic' needs at least 4 rotary dimensions, got {dim}")
    if kind in ("linear", "dynamic"):
        return {"factor": parameters.positive("factor"), "original_max_len": max_len}
    original = parameters.integer("original_max_position_embeddings", max_len)
    original = config.integer("original_max_position_embeddings", original)
    fields: dict[str, Any] = {"original_max_len": original}
    if kind == "llama3":
        low, high = parameters.positive("low_freq_factor"), parameters.positive("high_freq_factor")
        if high <= low:
            raise parameters.error("high_freq_factor", f"({high}) must be above low_freq_factor ({low})")
        return fields | {"factor": parameters.positive("factor"), "low_freq_factor": low, "high_freq_factor": high}
    fields["factor"] = parameters.positive("factor", max_len / original)
    if parameters.has("attention_factor"):
        fields["attention_factor"] = parameters.positive("attention_factor")
    if kind == "longrope":
        for name in ("short_factor", "long_factor"):
            fields[name] = parameters.numbers(name, dim // 2)
        return fields
    for name in ("mscale", "mscale_all_dim"):
        fields[name] = parameters.number(name) if parameters.has(name) else None
    fields["beta_fast"] = parameters.positive("beta_fast", 32.0)
    fields["beta_slow"] = parameters.positive("beta_slow", 1.0)
    fields["truncate"] = parameters.flag("truncate", True)
    return fields


def _query_beta(parameters: Fields, most: int) -> float:
    """Of positions up to `most` times the trained context. Raises `ModelError` where queries would grow twofold, which
    `Rotary.gates` cannot hold."""
    beta = parameters.positive(QUERY_BETA)
    if beta * math.log1p(most) >= 1:
        raise parameters.error(QUERY_BETA, f"({beta:g}) must be below {1 / math.log1p(most):g} for such long contexts")
    return beta


def inverse_frequencies(rope: RopeConfig, max_len: int) -> tuple[Floats, float]:
    """Angle per position of every pair of dimensions, float32 [dim / 2], and the factor on cos and sin.

    `max_len` is the longest context that they are for; see the module's text.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    match rope.scaling:
        case "linear":
            return 1.0 / _power(rope.theta, exponents) / rope.factor, 1.0
        case "dynamic":
            return 1.0 / _power(_dynamic_base(rope, max_len), exponents), 1.0
        case "yarn":
            return _yarn(rope, exponents), _yarn_attention_factor(rope)
        case "longrope":
            factors = rope.long_factor if max_len > rope.original_max_len else rope.short_factor
            stretch = np.array(factors, dtype=np.float32)
            return 1.0 / (stretch * _power(rope.theta, exponents)), _longrope_attention_factor(rope)
        case "llama3":
            return _llama3(rope, 1.0 / _power(rope.theta, exponents)), 1.0
        case _:
            return 1.0 / _power(rope.theta, exponents), 1.0


def _power(base: float, exponents: Floats) -> Floats:
    """base ** exponents, rounded once: float32 powers differ from machine to machine, by their instructions."""
    powers: Floats = np.power(base, exponents.astype(np.float64)).astype(np.float32)
    return powers


def _dynamic_base(rope: RopeConfig, max_len: int) -> float:
    """NTK-aware base for texts of `max_len` tokens (bloc97 and emozilla, 2023); the trained one up to its length."""
    length = max(max_len, rope.original_max_len)
    stretch = (rope.factor * length / rope.original_max_len) - (rope.factor - 1)
    return float(rope.theta * stretch ** (rope.dim / (rope.dim - 2)))


def _yarn(rope: RopeConfig, exponents: Floats) -> Floats:
    """Slow pairs interpolate, fast pairs stay, a ramp between (YaRN, arXiv 2309.00071, section 3.2)."""

    def dimension_of(rotations: float) -> float:
        turns = math.log(rope.original_max_len / (rotations * 2 * math.pi))
        return rope.dim * turns / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    ramp = ((np.arange(rope.dim // 2, dtype=np.float32) - low) / (high - low)).clip(0, 1)
    stays = 1 - ramp
    periods = _power(rope.theta, exponents)
    result: Floats = 1.0 / (rope.factor * periods) * (1 - stays) + 1.0 / periods * stays
    return result


def _yarn_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(mscale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * mscale * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


def _longrope_attention_factor(rope: RopeConfig) -> float:
    """LongRoPE, arXiv 2402.13753, as Phi-3 uses it."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_len))


def _llama3(rope: RopeConfig, frequencies: Floats) -> Floats:
    """Long waves are divided by factor, short ones stay, those between are blended (Llama 3.1's `apply_scaling`)."""
    waves = 2 * math.pi / frequencies
    longest = rope.original_max_len / rope.low_freq_factor
    shortest = rope.original_max_len / rope.high_freq_factor
    blend = (rope.original_max_len / waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blended = (1 - blend) * frequencies / rope.factor + blend * frequencies
    scaled = np.where(waves > longest, frequencies / rope.factor, frequencies)
    between = ~(waves < shortest) & ~(waves > longest)
    result: Floats = np.where(between, blended, scaled)
    return result
