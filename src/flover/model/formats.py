"""In which format every matrix of a model is kept: as its file has it where that is in blocks, else as asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from flover.errors import InvariantError, ModelError
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.placement import Placement
from flover.model.reads import Read
from flover.ops import BLOCKS, WeightFormat
from flover.ops.cpu_sizes import BYTES_PER_WEIGHT
from flover.request import ExpertReads
from flover.source import TensorInfo
from flover.source.quantization import Scheme
from flover.source.quantized import format_of as quantized_format
from flover.weight_formats import INPUTS_TOGETHER

ROUTERS = ("router.weight", "shared_gate.weight")
VECTOR_BYTES = 4
"""Norms and biases are float32 in every format."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a matrix, all in one format."""

    count: int
    format: WeightFormat


Formats = Mapping[str, tuple[Rows, ...]]
"""By the name of a matrix: its rows from the first to the last, in a single format but for queries, keys and values of
a file that has them in different ones."""


def matrix_formats(model: ModelConfig, asked: WeightFormat, reads: Iterable[Read]) -> Formats:
    """The format of every matrix of a model. Raises `ModelError` for gate and up in different blocks."""
    placed = [(read.info, placement) for read in reads for placement in read.placements]
    stored: dict[str, list[tuple[TensorInfo, Placement]]] = {
        placement.parameter: [] for info, placement in placed if info.dtype in BLOCKS
    }
    for info, placement in placed:
        if placement.parameter in stored:
            stored[placement.parameter].append((info, placement))
    return {
        name: _stored_rows(stored[name], asked, model)
        if name in stored
        else (Rows(shape[0], format_of(name, asked, model)),)
        for name, shape in parameter_shapes(model).items()
        if len(shape) == 2
    }


def announced_formats(model: ModelConfig, scheme: Scheme) -> Formats:
    """The formats of a quantized checkpoint whose tensors are not at hand, nearly: all linears of its layers are
    quantized, but routers; of gpt-oss the experts alone."""
    shapes = {name: shape for name, shape in parameter_shapes(model).items() if len(shape) == 2}
    linears = [name for name in shapes if name.startswith("layers.") and not name.endswith(ROUTERS)]
    if scheme.packing == "mxfp4":
        linears = [name for name in linears if ".experts." in name]
    kept = {name: quantized_format(scheme, shapes[name][1]) for name in linears}
    return {name: (Rows(shapes[name][0], found),) for name, found in kept.items() if found is not None}


def _stored_rows(
    placed: Sequence[tuple[TensorInfo, Placement]], asked: WeightFormat, model: ModelConfig
) -> tuple[Rows, ...]:
    found: list[Rows] = []
    for info, placement in sorted(placed, key=lambda one: one[1].start):
        kept = cast(WeightFormat, info.dtype) if info.dtype in BLOCKS else format_of(placement.parameter, asked, model)
        count = placement.stop - placement.start
        if found and found[-1].format == kept:
            found[-1] = Rows(found[-1].count + count, kept)
        else:
            found.append(Rows(count, kept))
    if len(found) > 1 and is_gated(placed[0][1].parameter, model):
        kinds = ", ".join(f"{info.name} is {info.dtype}" for info, _ in placed)
        raise ModelError(f"{placed[0][0].file}: {kinds}: a gate and its values must be of one type")
    return tuple(found)


def format_of(name: str, asked: WeightFormat, model: ModelConfig) -> WeightFormat:
    """How one matrix is kept. A router decides which experts are computed: it is never rounded. Where linears have four
    bits, some matrices keep eight: embedding and output projection, which decide single tokens, and the second linear
    of the feed-forward block in half of the layers."""
    if name.endswith(ROUTERS):
        return "float32"
    if asked != "int4":
        return asked
    if name in ("embed.weight", "positions.weight", "head.weight"):
        return "int8"
    return "int8" if name.endswith("down.weight") and has_more_bits(name, model.num_layers) else "int4"


def has_more_bits(name: str, num_layers: int) -> bool:
    """Is a parameter, or a tensor of a GGUF file, in one of the layers whose errors weigh most: the first and the last
    eighth, and every third between (llama.cpp's `use_more_bits`)? The number of the layer is second in its name."""
    layer, eighth = int(name.split(".")[1]), num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def is_gated(name: str, model: ModelConfig) -> bool:
    """Does the matrix hold gate and values in one?"""
    return model.gated and name.endswith(".up.weight")


def format_at(matrix: Sequence[Rows], row: int) -> WeightFormat:
    """The format of a row of a matrix."""
    for rows in matrix:
        if row < rows.count:
            return rows.format
        row -= rows.count
    raise InvariantError(f"the matrix has no row {row}")


def coarsest(formats: Formats) -> WeightFormat:
    """The format that keeps most inputs together: ranks are cut between these."""
    kinds = [rows.format for matrix in formats.values() for rows in matrix]
    return max(kinds, key=lambda kind: INPUTS_TOGETHER.get(kind, 1))


def most_used(formats: Formats) -> WeightFormat:
    """The format that most rows of linears are in."""
    return kinds_of({name: matrix for name, matrix in formats.items() if name.startswith("layers.")})[0]


def kinds_of(formats: Formats) -> list[WeightFormat]:
    """The formats of all matrices, those of most rows first."""
    counts: Counter[WeightFormat] = Counter()
    for matrix in formats.values():
        for rows in matrix:
            counts[rows.format] += rows.count
    return [kind for kind, _ in counts.most_common()]


def read_bytes(model: ModelConfig, formats: Formats) -> int:
    """Bytes of the weights that an iteration reads if it uses all experts: of an untied embedding it reads but the rows
    that it looks up."""
    return max(1, weight_bytes(model, formats, without=_looked_up(model)))


def expert_reads(model: ModelConfig, formats: Formats) -> ExpertReads:
    """How much of that the experts are."""
    experts = model.experts
    if experts is None:
        return ExpertReads()
    own = {name for name in parameter_shapes(model) if ".experts." in name}
    rest = weight_bytes(model, formats, without=own.union(_looked_up(model)))
    return ExpertReads(1 - rest / read_bytes(model, formats), experts.routing.top_k / experts.count)


def _looked_up(model: ModelConfig) -> tuple[str, ...]:
    return () if model.tied_embeddings else ("embed.weight",)


def weight_bytes(model: ModelConfig, formats: Formats, without: Container[str] = ()) -> int:
    """Bytes of a model's weights, or of a rank's share of them, nearly; those of `without` are left out."""
    total = 0.0
    for name, shape in parameter_shapes(model).items():
        if name in without:
            continue
        if len(shape) == 1:
            total += shape[0] * VECTOR_BYTES
            continue
        matrix = formats[name]
        per_row = sum(rows.count * BYTES_PER_WEIGHT[rows.format] for rows in matrix) / sum(
            rows.count for rows in matrix
        )
        total += shape[0] * shape[1] * per_row
    return int(total)
