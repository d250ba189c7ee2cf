"""What loading a model with a configuration comes to, worked out before any weight is read.

Whoever loads a model and whoever only asks whether it would load (`flover doctor`) describe it here, so that the two
refuse the same things for the same reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.memory.graph_sizes import graph_bytes
from flover.memory.machine import Machine, compute_threads
from flover.memory.sizing import PoolSize, size_pool
from flover.model.activations import activation_bytes
from flover.model.config import ModelConfig
from flover.model.families import Family
from flover.model.formats import ROUTERS, Formats, announced_formats, coarsest, matrix_formats, most_used, weight_bytes
from flover.model.hf_config import read_model
from flover.model.locate import locate_model, locate_tokenizer
from flover.model.reads import Read, plan_reads
from flover.model.shard import Shard
from flover.ops import BLOCKS, DTYPE_BYTES, DType, WeightFormat
from flover.source import ModelSource, open_source
from flover.source.quantization import read_scheme

_DTYPES: Mapping[str, DType] = {
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}
"""What `--dtype` names, but for `auto`."""
_STORED: Mapping[str, DType] = {"BF16": "bfloat16", "F16": "float16"}
"""The names that safetensors has for the types narrower than float32."""
_KV_DTYPES: Mapping[str, DType] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """What one process of an engine takes of its machine: compute threads, and pages beside its weights."""

    num_threads: int
    pool: PoolSize


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A model as `settings` load it: `config` is the whole model, `own` what one rank computes of it. `dtype` is the
    type that was asked for or the checkpoint's own, `formats` how the weights are kept and `format` how most of them
    are, `max_len` the longest context that is served. `reads` are None where the weights are not at hand. With
    `fp8_activations` the checkpoint means products in FP8 (W8A8). `draft` is a draft model that is loaded beside it
    (`draft.py`)."""

    settings: EngineConfig
    source: ModelSource
    family: Family
    config: ModelConfig
    own: ModelConfig
    shard: Shard
    dtype: DType
    format: WeightFormat
    formats: Formats
    max_len: int
    reads: list[Read] | None
    fp8_activations: bool
    draft: Description | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of this rank's weights, nearly: norms and biases are float32 in every format."""
        return weight_bytes(self.own, self.formats)

    @property
    def page_bytes(self) -> int:
        """Bytes of a page of this rank's keys and values."""
        return self.own.kv_bytes_per_token(self.kv_dtype) * self.settings.block_size

    @property
    def _offload_bytes(self) -> int:
        """Memory of a host tier that has no file."""
        return 0 if self.settings.kv_offload_path is not None else self.settings.kv_offload_bytes or 0

    @property
    def kv_dtype(self) -> DType:
        """Type of keys and values: on a GPU by default that of the activations, which is that of the weights."""
        on_gpu = self.settings.device == "cuda" and self.settings.kv_cache_dtype == "auto"
        return self.dtype if on_gpu else kv_dtype_of(self.settings)

    @property
    def graph_bytes(self) -> int:
        """Memory of captured forwards, nearly; 0 where there are none."""
        if self.settings.device != "cuda" or self.settings.enforce_eager:
            return 0
        model, experts = self.own, self.own.experts
        # What a layer has at once: residual stream, update, norm; queries, keys and values; gates, and what they give.
        chosen = 0 if experts is None else experts.routing.top_k
        inner = max(model.intermediate_size, chosen * experts.intermediate_size if experts else 0)
        size = (
            (4 + chosen) * model.hidden_size
            + 2 * model.query_size
            + 2 * model.num_kv_heads * model.head_dim
            + 3 * inner
        )
        row_bytes = size * DTYPE_BYTES[self.dtype]
        return graph_bytes(self.settings.max_num_seqs, self.max_len, model.num_heads, model.head_dim, row_bytes)

    @property
    def activation_bytes(self) -> int:
        """Bytes that the longest iteration takes beside weights and pages, nearly; on a GPU with all rows' logits, and
        what sampling makes of them."""
        settings = self.settings
        logits = 2 * settings.max_num_seqs * self.config.vocab_size * 4 if settings.device == "cuda" else 0
        return activation_bytes(self.own, self.formats, settings.max_num_batched_tokens) + logits

    def plan(self, machine: Machine, num_processes: int) -> ProcessPlan:
        """Threads and pool of one of the `num_processes` processes that share `machine`, before they read weights.

        Raises `ModelError` if the weights alone are more than the process's part of the memory, `ConfigError` if an
        iteration or the pool is.
        """
        sharing = 1 if machine.own_memory else num_processes
        part = machine.available_bytes // sharing - self.graph_bytes
        beside = f" beside {self.graph_bytes / 2**20:,.0f} MiB of CUDA graphs (--enforce-eager: none)"
        self.check_weights(part, machine.memory + (beside if self.graph_bytes else ""))
        left = part - self.weight_bytes
        if self._offload_bytes > left:
            raise ConfigError(
                f"--kv-offload-bytes asks for {self._offload_bytes / 2**20:,.0f} MiB, and {left / 2**20:,.0f} MiB of "
                f"{machine.memory} are left beside the weights: lower it, or keep the tier in files (--kv-offload-path)"
            )
        left -= self._offload_bytes
        if self.draft is not None:
            self.draft.check_weights(left, f"{machine.memory} beside those of the model that it drafts for")
            left -= self.draft.weight_bytes
        activations = max(0, self.activation_bytes - machine.spare_bytes)
        if activations > left:
            spare = f" and the {machine.spare_bytes / 2**20:,.0f} MiB outside of it" if machine.spare_bytes else ""
            raise ConfigError(
                f"an iteration of {self.settings.max_num_batched_tokens} tokens needs "
                f"{self.activation_bytes / 2**20:,.0f} MiB, and {left / 2**20:,.0f} MiB of {machine.memory}{spare} are "
                "left beside the weights: lower --max-num-batched-tokens"
            )
        threads = compute_threads(self.settings.num_threads, num_processes, machine.cores)
        return ProcessPlan(threads, self.pool(left - activations, machine.pool_share))

    def check_weights(self, available_bytes: int, memory: str = "this machine's memory") -> None:
        """Raises `ModelError` if the weights alone are more than what is available of `memory`."""
        if self.weight_bytes > available_bytes:
            raise ModelError(
                f"the {self.own.num_parameters():,} weights do not fit into {memory} as {self.format}: "
                f"they need {self.weight_bytes / 2**20:,.0f} MiB, and {available_bytes / 2**20:,.0f} MiB are available"
            )

    def pool(self, available_bytes: int, share: float = 0.5) -> PoolSize:
        """The pages of keys and values, of the memory that is left beside the weights. Raises `ConfigError`."""
        return size_pool(
            page_bytes=self.page_bytes + (self.draft.page_bytes if self.draft is not None else 0),
            page_size=self.settings.block_size,
            max_num_seqs=self.settings.max_num_seqs,
            max_model_len=self.max_len,
            available_bytes=available_bytes,
            asked_bytes=self.settings.kv_cache_memory_bytes,
            share=share,
        )


def describe_model(
    settings: EngineConfig, shard: Shard, *, weights: bool = True, source: ModelSource | None = None
) -> Description:
    """What loading this rank's share of `settings.model` comes to; without `weights` none are fetched from the hub.
    `source` is read instead of it if given.

    Raises `ModelError` for files that are missing, damaged or not understood, and `ConfigError` if `max_model_len` is
    more than the model can do or the ranks cannot share it.
    """
    dummy = settings.load_format == "dummy"
    if source is None:
        source = open_source(
            locate_model(settings.model, settings.revision, settings.download_dir, weights=weights and not dummy)
        )
    family, config = read_model(source, _tokenizer_source(settings, source))
    at_hand = not dummy and (weights or any(source.path.glob("*.safetensors")) or Path(settings.model).exists())
    reads = plan_reads(source, family, config) if at_hand else None
    dtype = _DTYPES.get(settings.dtype) or (
        announced_dtype(config) if reads is None else stored_dtype(reads, settings.device)
    )
    formats = matrix_formats(config, _format(settings, dtype), reads or ())
    scheme = read_scheme(source.document("config.json"), source.where("config.json"))
    if scheme is not None and reads is None and not dummy:
        formats = {**formats, **announced_formats(config, scheme)}
    _check_quantization(settings, formats)
    return Description(
        settings=settings,
        source=source,
        family=family,
        config=config,
        own=shard.config(config, coarsest(formats)),
        shard=shard,
        dtype=dtype,
        format=most_used(formats),
        max_len=_max_len(settings, config),
        formats=formats,
        reads=reads,
        fp8_activations=scheme is not None and scheme.fp8_activations,
    )


def stored_dtype(reads: Sequence[Read], device: str) -> DType:
    """The type that holds the matrices of a checkpoint as they are: 16 bits if all have the same 16 bits. Vectors and
    routers do not count: they are kept in float32; nor do matrices in blocks, which are kept as they are. Where there
    are no others, it is but the type of activations: 16 bits on a GPU."""
    matrices = [read for read in reads if len(read.info.shape) > 1 and read.info.is_float]
    stored = {read.info.dtype for read in matrices if not all(_is_router(one.parameter) for one in read.placements)}
    if not stored and device == "cuda":
        return "bfloat16"
    return _STORED.get(stored.pop(), "float32") if len(stored) == 1 else "float32"


def _is_router(parameter: str) -> bool:
    return parameter.endswith(ROUTERS)


def announced_dtype(config: ModelConfig) -> DType:
    """The same by config.json, for weights that are not at hand."""
    return _DTYPES.get(config.checkpoint_dtype.removeprefix("torch."), "float32")


def _tokenizer_source(settings: EngineConfig, model: ModelSource) -> ModelSource | None:
    path = locate_tokenizer(settings)
    if path is None:
        return None
    return model if path == model.path else open_source(path)


def _check_quantization(settings: EngineConfig, formats: Formats) -> None:
    kept = sorted({rows.format for matrix in formats.values() for rows in matrix if rows.format in BLOCKS})
    if settings.quantization is not None and kept:
        raise ConfigError(
            f"--quantization is {settings.quantization}, but {settings.model} is stored in {', '.join(kept)} already, "
            "and is computed as it is stored: leave --quantization out"
        )


def _format(settings: EngineConfig, dtype: DType) -> WeightFormat:
    """How the linears' weights are kept: quantized if that was asked for, else in the type of the model."""
    match settings.quantization:
        case "int8" | "int4":
            return settings.quantization
        case _:
            return dtype


def kv_dtype_of(settings: EngineConfig) -> DType:
    """Type of keys and values: 16 bits where the settings ask for weights of 16 bits or less, else float32. The type of
    a checkpoint does not count: its weights are the same numbers in 16 bits, but keys and values would be rounded."""
    if settings.kv_cache_dtype != "auto":
        return _KV_DTYPES[settings.kv_cache_dtype]
    asked = _DTYPES.get(settings.dtype, "float32")
    return "float32" if settings.quantization is None and asked == "float32" else "bfloat16"


def _max_len(config: EngineConfig, model: ModelConfig) -> int:
    if config.max_model_len is None:
        return model.default_max_len
    if config.max_model_len > model.longest_max_len:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}, but {config.model} handles at most "
            f"{model.longest_max_len} tokens"
        )
    return config.max_model_len
