"""Memory for matrices of any format, and matrices in formats of their own that are used as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

import torch

from flover.errors import ConfigError
from flover.ops import NewWeight, Ops, Part, Weight, WeightFormat
from flover.ops.cuda.fp8 import GROUP
from flover.ops.cuda.quantize import FLOATS, recipe_of
from flover.ops.cuda.quantized import BLOCK, QUANTIZED, QuantizedWeight
from flover.ops.cuda.weight import FORMATS, CudaWeight, zeros
from flover.ops.joined import JoinedWeight
from flover.weight_formats import segments_of

Matrix: TypeAlias = CudaWeight | QuantizedWeight


JoinedMatrix: TypeAlias = JoinedWeight[Matrix]


def join(weights: Sequence[Weight]) -> JoinedMatrix:
    """One matrix that has the outputs of these one after another."""
    return JoinedWeight(cast(Sequence[Matrix], weights))


_PREPARING = "rms_norm", "layer_norm", "attention", "linear"


def prepare(table: Ops, weight: Weight) -> Ops:
    """The slot of the op table. Of joined matrices, what most has to be known for: the sums that offsets need."""
    members = weight.members if isinstance(weight, JoinedWeight) else (weight,)
    quantized = [one for one in members if isinstance(one, QuantizedWeight) and recipe_of(one) != FLOATS]
    if not quantized:
        return table
    then = max(quantized, key=lambda one: recipe_of(one).parts)
    changed: dict[str, Any] = {name: partial(getattr(table, name), then=then) for name in _PREPARING}
    return replace(table, **changed)


def _make(
    device: torch.device,
    activations: torch.dtype,
    fp8_activations: bool,
    shape: tuple[int, int],
    weight_format: WeightFormat,
    gated: bool,
    part: Part | None = None,
) -> Matrix:
    together = BLOCK * QUANTIZED[weight_format].together if weight_format in QUANTIZED else 1
    fp8_activations = fp8_activations and weight_format == "fp8_e4m3"
    if fp8_activations:
        together = GROUP  # of a token, which share a scale
    segments = segments_of(weight_format, part.whole, shape[1], together) if part else 1
    if part is not None and part.whole == shape[1]:
        part = None
    if weight_format in QUANTIZED:
        return QuantizedWeight(device, activations, shape, weight_format, gated, part, fp8_activations, segments)
    if weight_format not in FORMATS:
        raise ConfigError(f"a GPU keeps no weights in {weight_format}")
    return CudaWeight(zeros(shape, FORMATS[weight_format], device), gated, part, segments)


def weights_on(device: torch.device, activations: torch.dtype, fp8_activations: bool) -> NewWeight:
    """Memory for matrices on that device, for activations of that type, or in FP8 where the weights are."""
    return partial(_make, device, activations, fp8_activations)
