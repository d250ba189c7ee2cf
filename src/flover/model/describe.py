"""What loading a model with a configuration comes to, worked out before any weight is read.

Whoever loads a model and whoever only asks whether it would load (`flover doctor`) describe it here, so that the two
refuse the same things for the same reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.memory.sizing import PoolSize, size_pool
from flover.model.config import ModelConfig
from flover.model.families import Family
from flover.model.hf_config import read_model
from flover.model.locate import locate_model, locate_tokenizer
from flover.model.reads import Read, plan_reads
from flover.model.shard import Shard
from flover.ops import DType, WeightFormat
from flover.ops.cpu_weight import BYTES_PER_WEIGHT
from flover.source import ModelSource, open_source

_DTYPES: Mapping[str, DType] = {
    "auto": "float32",
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}
_KV_DTYPES: Mapping[str, DType] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A model as `settings` load it: `config` is the whole model, `own` what one rank computes of it. `dtype` is the
    type that was asked for, `format` how the weights are kept, `max_len` the longest context that is served. `reads`
    are None where the weights are not at hand."""

    settings: EngineConfig
    source: ModelSource
    family: Family
    config: ModelConfig
    own: ModelConfig
    shard: Shard
    dtype: DType
    format: WeightFormat
    max_len: int
    reads: list[Read] | None

    @property
    def weight_bytes(self) -> int:
        """Bytes of this rank's weights, nearly: norms and biases are float32 in every format."""
        return int(self.own.num_parameters() * BYTES_PER_WEIGHT[self.format])

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of this rank's keys and values."""
        return self.own.kv_bytes_per_token(kv_dtype_of(self.settings)) * self.settings.block_size

    def check_weights(self, available_bytes: int) -> None:
        """Raises `ModelError` if the weights alone are more than what is available."""
        if self.weight_bytes > available_bytes:
            raise ModelError(
                f"the {self.own.num_parameters():,} weights do not fit into this machine's memory as {self.format}: "
                f"they need {self.weight_bytes / 2**20:,.0f} MiB, and {available_bytes / 2**20:,.0f} MiB are available"
            )

    def pool(self, available_bytes: int) -> PoolSize:
        """The pages of keys and values, of the memory that is left beside the weights. Raises `ConfigError`."""
        return size_pool(
            page_bytes=self.page_bytes,
            page_size=self.settings.block_size,
            max_num_seqs=self.settings.max_num_seqs,
            max_model_len=self.max_len,
            available_bytes=available_bytes,
            asked_bytes=self.settings.kv_cache_memory_bytes,
        )


def describe_model(settings: EngineConfig, shard: Shard, *, weights: bool = True) -> Description:
    """What loading this rank's share of `settings.model` comes to; without `weights` none are fetched from the hub.

    Raises `ModelError` for files that are missing, damaged or not understood, and `ConfigError` if `max_model_len` is
    more than the model can do or the ranks cannot share it.
    """
    dummy = settings.load_format == "dummy"
    path = locate_model(settings.model, settings.revision, settings.download_dir, weights=weights and not dummy)
    source = open_source(path)
    tokenizer = locate_tokenizer(settings)
    family, config = read_model(source, None if tokenizer is None else source if tokenizer == path else open_source(tokenizer))
    weight_format = weight_format_of(settings)
    at_hand = not dummy and (weights or any(path.glob("*.safetensors")) or Path(settings.model).is_dir())
    return Description(
        settings=settings,
        source=source,
        family=family,
        config=config,
        own=shard.config(config, weight_format),
        shard=shard,
        dtype=_DTYPES[settings.dtype],
        format=weight_format,
        max_len=_max_len(settings, config),
        reads=plan_reads(source, family, config) if at_hand else None,
    )


def weight_format_of(config: EngineConfig) -> WeightFormat:
    """How the linears' weights are kept: quantized if that was asked for, else in the type of the model."""
    match config.quantization:
        case "int8" | "int4":
            return config.quantization
        case _:
            return _DTYPES[config.dtype]


def kv_dtype_of(config: EngineConfig) -> DType:
    """Type of keys and values: by default 16 bits where the weights have no more."""
    if config.kv_cache_dtype != "auto":
        return _KV_DTYPES[config.kv_cache_dtype]
    return "float32" if weight_format_of(config) == "float32" else "bfloat16"


def _max_len(config: EngineConfig, model: ModelConfig) -> int:
    if config.max_model_len is None:
        return model.default_max_len
    if config.max_model_len > model.longest_max_len:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}, but {config.model} handles at most "
            f"{model.longest_max_len} tokens"
        )
    return config.max_model_len
