"""What a config.json says of factors and bounds between operations."""

from __future__ import annotations

import math
from dataclasses import replace

from flover.model.config import ModelConfig
from flover.model.families import Family, ScaleNames
from flover.model.fields import Fields

ALIBI_BIAS_MAX = 8.0


def read_scales(fields: Fields, family: Family, config: ModelConfig) -> ModelConfig:
    """The config with these factors and bounds. Raises `ModelError`."""
    names = family.scales
    root = math.sqrt(config.hidden_size) if family.scaled_embeddings else 1.0
    scores, logits = (0.0, 0.0) if family.softcaps is None else _softcaps(fields, family.softcaps)
    return replace(
        config,
        embedding_scale=root * _factor(fields, names.embedding),
        residual_scale=_residual_scale(fields, names, config.num_layers),
        logit_scale=_logit_scale(fields, names, config.hidden_size),
        attn_logit_softcap=scores,
        final_logit_softcap=logits,
        alibi_slopes=_alibi_slopes(fields, family, config) if family.positions == "alibi" else (),
    )


def _factor(fields: Fields, name: str | None) -> float:
    return 1.0 if name is None else fields.positive(name, 1.0)


def _residual_scale(fields: Fields, names: ScaleNames, num_layers: int) -> float:
    if names.depth is not None:
        return fields.positive(names.depth) / math.sqrt(num_layers)
    return _factor(fields, names.residual)


def _logit_scale(fields: Fields, names: ScaleNames, hidden_size: int) -> float:
    if names.logits_width is not None:
        return fields.positive(names.logits_width) / hidden_size
    return _factor(fields, names.logits) / _factor(fields, names.logits_divisor)


def _softcaps(fields: Fields, defaults: tuple[float, float]) -> tuple[float, ...]:
    """Of scores and of logits; a bound that is null is none."""
    names = "attn_logit_softcapping", "final_logit_softcapping"
    return tuple(
        0.0 if name in fields.data and not fields.has(name) else fields.number(name, default)
        for name, default in zip(names, defaults, strict=True)
    )


def _alibi_slopes(fields: Fields, family: Family, config: ModelConfig) -> tuple[float, ...]:
    """ALiBi, arXiv:2108.12409: for heads that are a power of two, 2^-(bias_max k / heads), k from 1; the other heads
    take every other slope of twice as many. They are exact: transformers rounds Falcon's, and their products with
    positions, to bfloat16."""
    bias_max = fields.positive("alibi_bias_max", ALIBI_BIAS_MAX)
    power = 2 ** int(math.log2(config.num_heads))
    slopes = [2.0 ** (-bias_max * k / power) for k in range(1, power + 1)]
    between = [2.0 ** (-bias_max * k / (2 * power)) for k in range(1, 2 * power, 2)]
    factor = config.layers[0].attention_scale if family.alibi_is_scaled else 1.0
    return tuple(factor * slope for slope in (slopes + between)[: config.num_heads])
