"""Factors that a family has between its operations, folded into the weights of norms when a model is loaded.

Gemma multiplies its embeddings by e = sqrt(hidden size). The decoder does not: its residual stream is the model's
divided by e. What reads the stream is a norm, which does not see the factor if its epsilon is divided by e²
(`decoder.py`); what is added to the stream comes out of a norm too, whose weights are divided by e here.
"""

from __future__ import annotations

from collections.abc import Mapping

from flover.model.config import ModelConfig
from flover.model.families import Family
from flover.ops import HostArray
from flover.source import Naming


def fold(vectors: Mapping[str, HostArray], family: Family, config: ModelConfig, naming: Naming) -> None:
    """Change the weights of norms, once all are read from files of this `naming`: llama.cpp's have Gemma's norms as
    they are used, Hugging Face's less one."""
    for name, vector in vectors.items():
        if family.norm_offset and naming == "hugging_face" and name.endswith("norm.weight"):
            vector += 1
        if name.endswith("post_norm.weight"):
            vector /= config.stream_scale
