"""Factors that a family has between its operations, folded into norms.

A factor r on all that is added to the residual stream (Granite) is not computed: the decoder's residual stream is the
model's divided by r, so its embeddings are divided by r, and what is added to it has no factor. What reads the stream
is a norm, which does not see r if its epsilon is divided by r² (`decoder.py`). A factor on logits is one on the weights
of the final norm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from flover.model.config import ModelConfig, parameter_shapes
from flover.model.families import Family
from flover.ops import HostArray
from flover.source import Naming


def fold(vectors: Mapping[str, HostArray], family: Family, config: ModelConfig, naming: Naming) -> None:
    """Change the weights of norms, once all are read from files of this `naming`: llama.cpp's have Gemma's norms as
    they are used, Hugging Face's less one."""
    for name, vector in vectors.items():
        if family.norm_offset and naming == "hugging_face" and name.endswith("norm.weight"):
            vector += 1
        if name.startswith("final_norm."):
            vector *= config.logit_scale


def fold_rows(numbers: npt.NDArray[np.float32], parameter: str, family: Family) -> npt.NDArray[np.float32]:
    """Whole rows of a matrix as they are kept: Baichuan 2 divides those of its output projection by their length."""
    if not (family.head_normalized and parameter == "head.weight"):
        return numbers
    lengths = np.linalg.norm(numbers, axis=1, keepdims=True)
    normalized: npt.NDArray[np.float32] = numbers / np.maximum(lengths, np.float32(1e-12))
    return normalized


def constant_norms(config: ModelConfig) -> dict[str, HostArray]:
    """The weights, one, and biases, zero, of norms that have none in the checkpoint."""
    stored = parameter_shapes(config)
    needed = parameter_shapes(dataclasses.replace(config, norm_weight=True, norm_bias=True))
    return {
        name: np.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=np.float32)
        for name, shape in needed.items()
        if name not in stored
    }
