"""The families that Flover runs: one row per architecture name of a config.json. A new family is a new row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from flover.model.bloom_families import BLOOM_FAMILIES
from flover.model.expert_families import EXPERT_FAMILIES
from flover.model.families import Family
from flover.model.gpt_families import GPT_FAMILIES
from flover.model.layer_norm_families import LAYER_NORM_FAMILIES
from flover.model.llama_families import LLAMA_FAMILIES
from flover.model.rms_families import RMS_FAMILIES

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        **RMS_FAMILIES,
        **LLAMA_FAMILIES,
        **LAYER_NORM_FAMILIES,
        **GPT_FAMILIES,
        **BLOOM_FAMILIES,
        **EXPERT_FAMILIES,
    }
)
