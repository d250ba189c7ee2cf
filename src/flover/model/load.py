"""Load a model: find it, describe it, fill its weights exactly once, and hand over a decoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.generation_config import FILE as GENERATION_CONFIG
from flover.generation_config import ignored_fields
from flover.memory.machine import available_memory
from flover.model.adapters import new_tables
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.decoder import Decoder, Weights
from flover.model.describe import Description, describe_model
from flover.model.folds import constant_norms, fold, fold_rows
from flover.model.formats import Rows, format_at, is_gated
from flover.model.placement import Placement
from flover.model.reads import Read
from flover.model.shard import Cut, Shard
from flover.ops import DType, HostArray, Ops, Weight, WeightFormat
from flover.ops.adapters import AdapterTable
from flover.source import TensorInfo
from flover.source.numbers import forget, widen

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

DUMMY_SEED = 0
DUMMY_STD = 0.02
"""Spread of random weights: what most families are initialised with, so activations stay in a sane range."""

SLICE_NUMBERS = 2**20
"""Numbers that are converted at once on their way into a weight: 4 MiB of float32."""

_LARGEST: Mapping[WeightFormat, float] = {"float16": 65504.0, "bfloat16": 2.0**128 - 2.0**120}
"""Largest numbers of the types that hold less than float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A decoder that is ready to run, and what is known of the model."""

    decoder: Decoder
    description: Description
    name: str

    @property
    def config(self) -> ModelConfig:
        """The whole model."""
        return self.description.config

    @property
    def own(self) -> ModelConfig:
        """What this rank computes of it."""
        return self.description.own

    @property
    def dtype(self) -> DType:
        """The type that was asked for."""
        return self.description.dtype

    @property
    def format(self) -> WeightFormat:
        """How the weights are kept."""
        return self.description.format

    @property
    def max_len(self) -> int:
        """The longest context that it serves."""
        return self.description.max_len


def load_model(config: EngineConfig, ops: Ops, progress: Progress) -> LoadedModel:
    """Load this rank's share of `config.model` in the type and for the context that `config` asks for, packed for
    `ops`.

    Raises `ModelError` for files that are missing, damaged or not understood, and `ConfigError` if `max_model_len`
    is more than the model can do or the ranks cannot share it.
    """
    model = describe_model(config, Shard(ops.group.rank, ops.group.size))
    model.check_weights(available_memory())
    return load_described(model, ops, progress)


def load_described(model: Description, ops: Ops, progress: Progress) -> LoadedModel:
    """Load what was described, packed for `ops`. Raises `ModelError` for numbers that cannot be kept."""
    whole, own = model.config, model.own
    cuts = {name: model.shard.cut(name, shape, whole) for name, shape in parameter_shapes(whole).items()}
    weights = _allocate(model, cuts, ops)
    vectors = {**weights.vectors, **constant_norms(own)}
    if model.reads is None:
        _fill_with_noise(weights, cuts, whole, progress)
    else:
        _fill_from_files(weights, cuts, model, model.reads, progress)
        fold(vectors, model.family, own, model.source.naming)
    weights = Weights(weights.matrices, {name: ops.array(vector) for name, vector in vectors.items()})
    if model.shard.rank == 0:
        _tell(model)
    return LoadedModel(
        decoder=Decoder(own, weights, ops, model.max_len, model.shard, whole.vocab_size, _tables(model, ops)),
        description=model,
        name=model.settings.model,
    )


def _tables(model: Description, ops: Ops) -> dict[str, AdapterTable]:
    """Room for the adapters of the settings. Raises `ConfigError` where operations cannot compute any."""
    if not model.settings.enable_lora:
        return {}
    if ops.adapters is None:
        raise ConfigError(f"--enable-lora: the operations on {ops.name} compute no adapters")
    return new_tables(model.own, ops.adapters, model.settings.max_loras + model.settings.max_num_seqs)


def _tell(model: Description) -> None:
    """Into the log what is computed otherwise than a reader of the model's files may expect."""
    switch_len = model.config.switch_len(model.max_len)
    if switch_len is not None:
        logger.info("%s", rotary_rule(switch_len))
    ignored = ignored_fields(model.source)
    if ignored:
        logger.warning("not used of %s: %s", model.source.where(GENERATION_CONFIG), ", ".join(ignored))


def rotary_rule(switch_len: int) -> str:
    """How requests choose between a model's two rotary embeddings, in a sentence."""
    return (
        f"requests of up to {switch_len} tokens (prompt and max_tokens together; without max_tokens the whole context "
        "counts) use the rotary embedding of the model's training, longer ones that for long contexts"
    )


def _allocate(model: Description, cuts: Mapping[str, Cut], ops: Ops) -> Weights:
    shapes = parameter_shapes(model.own)
    try:
        matrices = {
            name: _new_matrix((shape[0], shape[1]), model.formats[name], is_gated(name, model.own), cuts[name], ops)
            for name, shape in shapes.items()
            if len(shape) == 2
        }
        vectors = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items() if len(shape) == 1}
    except MemoryError as error:
        raise ModelError(
            f"the {model.own.num_parameters():,} weights do not fit into this machine's memory as {model.format}"
        ) from error
    return Weights(matrices, vectors)


def _new_matrix(shape: tuple[int, int], formats: tuple[Rows, ...], gated: bool, cut: Cut, ops: Ops) -> Weight:
    """Room for what a rank keeps of a matrix, [out, in] = `shape`, whose whole is kept in these formats."""
    if len(formats) == 1:
        return ops.new_weight(shape, formats[0].format, gated, cut.part)
    assert ops.join is not None
    members, first = [], 0
    for rows in formats:
        kept = sum(count for _, count, _ in cut.pieces(first, rows.count))
        members.append(ops.new_weight((kept, shape[1]), rows.format, False, cut.part))
        first += rows.count
    return ops.join(members)


def _fill_from_files(
    weights: Weights, cuts: Mapping[str, Cut], model: Description, reads: list[Read], progress: Progress
) -> None:
    """Take each tensor from its file's mapping into its place, slice by slice; nothing is held twice."""
    total = sum(read.info.num_bytes for read in reads)
    done = 0
    progress(0, total)
    by_info = {read.info: read for read in reads}
    for info, tensor in model.source.read(list(by_info)):
        order = None if info.is_float else model.source.input_order(info)
        for placement, own in by_info[info].parts(tensor):
            parameter = placement.parameter
            kept = format_at(model.formats[parameter], placement.start) if parameter in model.formats else "float32"
            for start, part in _slices(placement, own):
                if info.is_float:
                    numbers = widen(part)
                    check_numbers(numbers, part, kept, f"{info.file}: {info.name}")
                    _store(weights, cuts[parameter], parameter, start, fold_rows(numbers, parameter, model.family))
                else:
                    _store_blocks(weights.matrices[parameter], cuts[parameter], start, part, order, info)
                done += part.nbytes
                forget(part)
                progress(done, total)
        forget(tensor)


def _slices(placement: Placement, tensor: HostArray) -> Iterator[tuple[int, HostArray]]:
    """A tensor in slices that are converted at once, each with the row of the weight where it goes."""
    for first, rows in placement.pieces(tensor):
        step = len(rows) if rows.ndim == 1 else max(1, SLICE_NUMBERS // rows.shape[1])
        for start in range(0, len(rows), step):
            yield first + start, rows[start : start + step]


def check_numbers(numbers: Floats, stored: HostArray, kept: WeightFormat, where: str) -> None:
    """Raises `ModelError` for a number that is not finite, or not as it will be kept: every answer would be void.
    `numbers` are those of the file, `stored`, as float32."""
    most = _LARGEST.get(kept, float(np.finfo(np.float32).max))
    if -most <= float(numbers.min()) and float(numbers.max()) <= most:
        return
    at = int(np.flatnonzero(~(np.abs(numbers) <= most))[0])
    value = float((numbers if stored.dtype == np.uint16 else stored).reshape(-1)[at])
    if math.isfinite(value):
        remedy = "--dtype bfloat16 or float32" if kept == "float16" else "--dtype float32"
        raise ModelError(f"{where} holds {value:g}, but {kept} holds at most {most:g}: use {remedy}")
    raise ModelError(f"{where} holds {value:g}, which is not a finite number: the file is damaged")


def _store(weights: Weights, cut: Cut, name: str, first: int, part: Floats) -> None:
    """Fill a weight with what it keeps of these rows of the whole."""
    for place, count, own in cut.pieces(first, len(part)):
        rows = part[place : place + count]
        if name in weights.vectors:
            weights.vectors[name][own : own + count] = rows
        else:
            weights.matrices[name].store(own, rows)


def _store_blocks(
    weight: Weight, cut: Cut, first: int, part: HostArray, order: HostArray | None, info: TensorInfo
) -> None:
    """The same with the bytes of rows in blocks, whose inputs are in this order."""
    try:
        for place, count, own in cut.pieces(first, len(part)):
            weight.store_blocks(own, part[place : place + count], order)
    except ModelError as error:
        raise ModelError(f"{info.file}: {info.name}: {error}") from error


def _fill_with_noise(weights: Weights, cuts: Mapping[str, Cut], model: ModelConfig, progress: Progress) -> None:
    """Random matrices, norms of one, biases of zero: always the same for the same config, however it is shared."""
    generator = np.random.default_rng(DUMMY_SEED)
    shapes = {name: shape for name, shape in parameter_shapes(model).items() if name in weights.matrices}
    total = sum(shape[0] * shape[1] for shape in shapes.values())
    done = 0
    progress(0, total)
    for name, vector in weights.vectors.items():
        vector[:] = 0.0 if name.endswith("bias") else 1.0
    for name, (out_size, in_size) in shapes.items():
        step = max(1, SLICE_NUMBERS // in_size)
        for first in range(0, out_size, step):
            rows = generator.standard_normal((min(step, out_size - first), in_size), dtype=np.float32)
            rows *= np.float32(DUMMY_STD)
            _store(weights, cuts[name], name, first, rows)
            done += rows.size
            progress(done, total)
