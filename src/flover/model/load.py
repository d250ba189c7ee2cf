"""Load a model: find it, describe it, fill its weights exactly once, and hand over a decoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.model.checkpoint import TensorInfo, find_files, list_tensors, read_tensors
from flover.model.config import ModelConfig, linear_weights, parameter_shapes
from flover.model.decoder import Decoder
from flover.model.families import Family
from flover.model.hf_config import read_model_directory
from flover.model.locate import locate_model
from flover.model.placement import Placement, TensorNames, expected_tensors
from flover.ops import best_for, select

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

DUMMY_SEED = 0
DUMMY_STD = 0.02
"""Spread of random weights: what most families are initialised with, so activations stay in a sane range."""

_DTYPES = {"auto": torch.float32, "float32": torch.float32, "float": torch.float32, "bfloat16": torch.bfloat16}
_NAMED = 5  # tensors to name in one error


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A decoder that is ready to run, and what is known of it. `max_len` is the longest context it serves."""

    decoder: Decoder
    config: ModelConfig
    dtype: torch.dtype
    path: Path | None
    name: str
    max_len: int


@dataclass(frozen=True, slots=True)
class _Read:
    """One tensor to read: where it is, and where it goes."""

    file: Path
    info: TensorInfo
    placement: Placement


def load_model(config: EngineConfig, progress: Progress) -> LoadedModel:
    """Load `config.model` in the type and for the context that `config` asks for.

    Raises `ModelError` for files that are missing, damaged or not understood, and `ConfigError` if `max_model_len`
    is more than the model can do.
    """
    dummy = config.load_format == "dummy"
    path = locate_model(config.model, config.revision, config.download_dir, weights=not dummy)
    family, model = read_model_directory(path)
    max_len = _max_len(config, model)
    dtype = _DTYPES[config.dtype]
    if dummy:
        weights = _allocate(model, dtype)
        _fill_with_noise(weights, progress)
    else:
        reads = _plan_reads(path, family, model)
        weights = _allocate(model, dtype)
        _fill_from_files(weights, reads, progress)
        if model.tied_embeddings:
            _check_tied_head(path, family, weights["embed.weight"])
    ops = select(best_for(dtype))
    for name in linear_weights(model):
        weights[name] = ops.pack(weights.pop(name))
    decoder = Decoder(model, weights, ops, max_len)
    return LoadedModel(decoder=decoder, config=model, dtype=dtype, path=path, name=config.model, max_len=max_len)


def _max_len(config: EngineConfig, model: ModelConfig) -> int:
    if config.max_model_len is None:
        return model.default_max_len
    if config.max_model_len > model.longest_max_len:
        raise ConfigError(
            f"--max-model-len is {config.max_model_len}, but {config.model} handles at most "
            f"{model.longest_max_len} tokens"
        )
    return config.max_model_len


def _allocate(model: ModelConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    try:
        return {name: torch.empty(shape, dtype=dtype) for name, shape in parameter_shapes(model).items()}
    except (RuntimeError, MemoryError) as error:
        size = model.num_parameters() * dtype.itemsize / 2**30
        raise ModelError(f"the weights need {size:.1f} GiB, which this machine does not have") from error


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


def _fill_from_files(weights: dict[str, Tensor], reads: list[_Read], progress: Progress) -> None:
    """Copy each tensor from its file's mapping into its place; nothing is held twice."""
    total = sum(read.info.num_bytes for read in reads)
    done = 0
    progress(0, total)
    for file in dict.fromkeys(read.file for read in reads):
        mine = {read.info.name: read for read in reads if read.file == file}
        for name, tensor in read_tensors(file, list(mine)):
            view = mine[name].placement.view(weights[mine[name].placement.parameter])
            view.copy_(tensor.view(view.shape))
            done += mine[name].info.num_bytes
            progress(done, total)


def _check_tied_head(path: Path, family: Family, embedding: Tensor) -> None:
    """A head that is stored although it is tied must be the embedding, or the config is wrong about it."""
    names = TensorNames(family)
    for file in find_files(path):
        heads = [info.name for info in list_tensors(file) if names.plain(info.name) == f"{family.heads[0]}.weight"]
        for name, tensor in read_tensors(file, heads):
            if tensor.shape != embedding.shape or not torch.equal(tensor.to(embedding.dtype), embedding):
                raise ModelError(
                    f"{path} stores {name} with other numbers than the embedding, but its config.json ties the two "
                    "(tie_word_embeddings)"
                )


def _fill_with_noise(weights: dict[str, Tensor], progress: Progress) -> None:
    """Random matrices, norms of one, biases of zero: always the same for the same config."""
    generator = torch.Generator().manual_seed(DUMMY_SEED)
    total = sum(weight.nbytes for weight in weights.values())
    done = 0
    progress(0, total)
    for name, weight in weights.items():
        if weight.ndim > 1:
            weight.normal_(0.0, DUMMY_STD, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        done += weight.nbytes
        progress(done, total)
