"""Load a model: find it, describe it, fill its weights exactly once, and hand over a decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.model.checkpoint import TensorInfo, find_files, forget, list_tensors, read_tensors
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.decoder import Decoder, Weights
from flover.model.families import Family, Target
from flover.model.hf_config import read_model_directory
from flover.model.locate import locate_model, locate_tokenizer
from flover.model.placement import Placement, TensorNames, expected_tensors
from flover.model.shard import Cut, Shard
from flover.ops import Ops, WeightFormat

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

DUMMY_SEED = 0
DUMMY_STD = 0.02
"""Spread of random weights: what most families are initialised with, so activations stay in a sane range."""

SLICE_NUMBERS = 2**20
"""Numbers that are converted at once on their way into a weight: 4 MiB of float32."""

_DTYPES = {
    "auto": torch.float32,
    "float32": torch.float32,
    "float": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "half": torch.float16,
}
_KV_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_FORMATS: dict[torch.dtype, WeightFormat] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_NAMED = 5  # tensors to name in one error


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A decoder that is ready to run, and what is known of it. `dtype` is the type that was asked for, `format` how the
    weights are kept, `max_len` the longest context it serves; `own` is what this rank computes of `config`."""

    decoder: Decoder
    config: ModelConfig
    own: ModelConfig
    dtype: torch.dtype
    format: WeightFormat
    path: Path | None
    name: str
    max_len: int


@dataclass(frozen=True, slots=True)
class _Read:
    """One tensor to read: where it is, and where it goes."""

    file: Path
    info: TensorInfo
    placement: Placement


def load_model(config: EngineConfig, ops: Ops, progress: Progress) -> LoadedModel:
    """Load this rank's share of `config.model` in the type and for the context that `config` asks for, packed for
    `ops`.

    Raises `ModelError` for files that are missing, damaged or not understood, and `ConfigError` if `max_model_len`
    is more than the model can do or the ranks cannot share it.
    """
    dummy = config.load_format == "dummy"
    path = locate_model(config.model, config.revision, config.download_dir, weights=not dummy)
    family, model = read_model_directory(path, locate_tokenizer(config))
    max_len = _max_len(config, model)
    dtype = _DTYPES[config.dtype]
    weight_format = weight_format_of(config)
    shard = Shard(ops.group.rank, ops.group.size)
    own = shard.config(model, weight_format)
    reads = [] if dummy else _plan_reads(path, family, model)
    cuts = {name: shard.cut(name, shape[0], model) for name, shape in parameter_shapes(model).items()}
    weights = _allocate(own, cuts, ops, weight_format, ops.dtype(dtype))
    if dummy:
        _fill_with_noise(weights, cuts, model, progress)
    else:
        _fill_from_files(weights, cuts, reads, progress)
        if model.tied_embeddings:
            _check_tied_head(path, family, model)
    return LoadedModel(
        decoder=Decoder(own, weights, ops, max_len, shard, model.vocab_size),
        config=model,
        own=own,
        dtype=dtype,
        format=weight_format,
        path=path,
        name=config.model,
        max_len=max_len,
    )


def weight_format_of(config: EngineConfig) -> WeightFormat:
    """How the linears' weights are kept: quantized if that was asked for, else in the type of the model."""
    match config.quantization:
        case "int8" | "int4":
            return config.quantization
        case _:
            return _FORMATS[_DTYPES[config.dtype]]


def _max_len(config: EngineConfig, model: ModelConfig) -> int:
    if config.max_model_len is None:
        return model.default_max_len
    if config.max_model_len > model.longest_max_len:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}, but {config.model} handles at most "
            f"{model.longest_max_len} tokens"
        )
    return config.max_model_len


def kv_dtype_of(config: EngineConfig) -> torch.dtype:
    """Type of keys and values: by default 16 bits where the weights have no more."""
    if config.kv_cache_dtype != "auto":
        return _KV_DTYPES[config.kv_cache_dtype]
    return torch.float32 if weight_format_of(config) == "float32" else torch.bfloat16


def _allocate(
    model: ModelConfig, cuts: Mapping[str, Cut], ops: Ops, weight_format: WeightFormat, dtype: torch.dtype
) -> Weights:
    shapes = parameter_shapes(model)
    try:
        matrices = {
            name: ops.new_weight(
                (shape[0], shape[1]), format_of(name, weight_format), is_gated(name, model), cuts[name].part
            )
            for name, shape in shapes.items()
            if len(shape) == 2
        }
        vectors = {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items() if len(shape) == 1}
    except (RuntimeError, MemoryError) as error:
        raise ModelError(
            f"the {model.num_parameters():,} weights do not fit into this machine's memory as {weight_format}"
        ) from error
    return Weights(matrices, vectors)


def format_of(name: str, weight_format: WeightFormat) -> WeightFormat:
    """How one matrix is kept. Embedding and output projection decide single tokens: they keep eight bits where the
    linears have four."""
    outer = name in ("embed.weight", "positions.weight", "head.weight")
    return "int8" if outer and weight_format == "int4" else weight_format


def is_gated(name: str, model: ModelConfig) -> bool:
    """Does the matrix hold gate and values in one?"""
    return model.gated and name.endswith(".up.weight")


def _plan_reads(path: Path, family: Family, model: ModelConfig) -> list[_Read]:
    """Match what the files hold with what the model needs, before any weight is read."""
    expected, names = expected_tensors(family, model), TensorNames(family)
    head = f"{family.heads[0]}.weight"
    reads: list[_Read] = []
    left_over: list[str] = []
    wrong: list[str] = []
    found: Counter[str] = Counter()
    for file in find_files(path):
        for info in list_tensors(file):
            plain = names.plain(info.name)
            placement = expected.get(plain)
            if placement is None:
                if not names.is_dropped(plain) and not (model.tied_embeddings and plain == head):
                    left_over.append(info.name)
                continue
            found[plain] += 1
            wrong += _problems(info, placement)
            reads.append(_Read(file, info, placement))
    twice = [name for name, count in found.items() if count > 1]
    missing = [name for name in expected if name not in found]
    _report(path, missing=missing, left_over=left_over, twice=twice, wrong=wrong)
    return reads


def _problems(info: TensorInfo, placement: Placement) -> list[str]:
    if info.shape != placement.shape:
        return [f"{info.name} has shape {list(info.shape)} but the config asks for {list(placement.shape)}"]
    if not info.is_float:
        return [f"{info.name} has type {info.dtype}, but only F32, F16, BF16 and F64 are supported"]
    return []


def _report(path: Path, *, missing: list[str], left_over: list[str], twice: list[str], wrong: list[str]) -> None:
    problems = [
        f"{label}: {', '.join(sorted(names)[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for label, names in (
            ("missing", missing),
            ("left over (the model has no place for them)", left_over),
            ("there more than once", twice),
            ("not usable", wrong),
        )
        if names
    ]
    if problems:
        raise ModelError(f"the weights in {path} do not fit its config.json; " + "; ".join(problems))


def _fill_from_files(weights: Weights, cuts: Mapping[str, Cut], reads: list[_Read], progress: Progress) -> None:
    """Take each tensor from its file's mapping into its place, slice by slice; nothing is held twice."""
    total = sum(read.info.num_bytes for read in reads)
    done = 0
    progress(0, total)
    for file in dict.fromkeys(read.file for read in reads):
        mine = {read.info.name: read for read in reads if read.file == file}
        for name, tensor in read_tensors(file, list(mine)):
            read = mine[name]
            for first, rows in read.placement.pieces(tensor):
                parameter = read.placement.parameter
                for part in _store(weights, cuts[parameter], parameter, first, rows):
                    done += part.numel() * tensor.itemsize
                    forget(part)
                    progress(done, total)
            forget(tensor)


def _store(weights: Weights, cut: Cut, name: str, first: int, rows: Tensor) -> Iterator[Tensor]:
    """Fill a weight with what it keeps of these rows of the whole; yields what has been seen, slice after slice."""
    if name in weights.vectors:
        for place, count, own in cut.pieces(first, len(rows)):
            weights.vectors[name][own : own + count] = rows[place : place + count]
        yield rows
        return
    step = max(1, SLICE_NUMBERS // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        try:
            for place, count, own in cut.pieces(first + start, len(part)):
                weights.matrices[name].store(own, part[place : place + count])
        except ModelError as error:
            raise ModelError(f"{name}: {error}") from error
        yield part


def _check_tied_head(path: Path, family: Family, model: ModelConfig) -> None:
    """A head that is stored although it is tied must be the embedding, or the config is wrong about it."""
    names, stored = TensorNames(family), {}
    for file in find_files(path):
        for info in list_tensors(file):
            plain = names.plain(info.name)
            if plain == f"{family.heads[0]}.weight":
                stored["head"] = (file, info.name)
            elif family.modules.get(plain.removesuffix(".weight")) == Target("embed"):
                stored["embedding"] = (file, info.name)
    if "head" not in stored:
        return
    head, embedding = (next(read_tensors(file, [name]))[1] for file, name in (stored["head"], stored["embedding"]))
    if head.shape != embedding.shape or not torch.equal(head, embedding):
        raise ModelError(
            f"{path} stores {stored['head'][1]} with other numbers than the embedding, but its config.json ties the "
            "two (tie_word_embeddings)"
        )


def _fill_with_noise(weights: Weights, cuts: Mapping[str, Cut], model: ModelConfig, progress: Progress) -> None:
    """Random matrices, norms of one, biases of zero: always the same for the same config, however it is shared."""
    generator = torch.Generator().manual_seed(DUMMY_SEED)
    shapes = {name: shape for name, shape in parameter_shapes(model).items() if name in weights.matrices}
    total = sum(shape[0] * shape[1] for shape in shapes.values())
    done = 0
    progress(0, total)
    for name, vector in weights.vectors.items():
        vector.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, (out_size, in_size) in shapes.items():
        step = max(1, SLICE_NUMBERS // in_size)
        for first in range(0, out_size, step):
            rows = torch.empty(min(step, out_size - first), in_size).normal_(0.0, DUMMY_STD, generator=generator)
            for part in _store(weights, cuts[name], name, first, rows):
                done += part.numel()
                progress(done, total)
