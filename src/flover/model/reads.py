"""What a model's files hold matched with what the model needs, before any weight is read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from flover.errors import ModelError
from flover.model.config import ModelConfig
from flover.model.families import Family
from flover.model.family_modules import Target
from flover.model.gguf_names import in_gguf
from flover.model.placement import (
    STACKED,
    Placement,
    Placements,
    TensorNames,
    expected_tensors,
    in_stacks,
    untransposed,
)
from flover.ops import BLOCKS, HostArray
from flover.source import Layout, ModelSource, TensorInfo
from flover.source.numbers import widen
from flover.weight_formats import GGUF_BLOCKS

COMPARED_ROWS = 4096
"""Rows of embedding and head that are compared at once."""
_NAMED = 5  # tensors to name in one error
_QUANTIZED = ("qweight", "qzeros", "scales", "weight_scale", "weight_scale_inv", "weight_packed", "absmax", "SCB")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor to read: where it is, and where it goes, with the experts of a layer as many places."""

    info: TensorInfo
    placements: Placements

    def parts(self, tensor: HostArray) -> Iterator[tuple[Placement, HostArray]]:
        """The tensor, or what of it every expert has, with its place."""
        yield from zip(self.placements, tensor if len(self.placements) > 1 else (tensor,), strict=True)


def plan_reads(source: ModelSource, family: Family, model: ModelConfig) -> list[Read]:
    """The tensors to read from `source`; together they fill every weight exactly once.

    Where embedding and output projection are tied, either of the two may be stored, or both with equal numbers. Raises
    `ModelError` naming what is missing, left over, there twice or not usable.
    """
    tensors = source.tensors()
    if source.naming == "gguf":
        family = in_gguf(family, (info.name for info in tensors))
    elif any(info.name.endswith(STACKED) for info in tensors):
        family = in_stacks(family)
    expected, names = expected_tensors(family, model), TensorNames(family)
    head, embedding = f"{family.heads[0]}.weight", _embedding_name(family)
    if source.has("adapter_config.json"):
        logger.warning("%s has an adapter beside the model: it is not applied", source.path)
    stored = [(names.plain(info.name), info) for info in tensors]
    found = Counter(plain for plain, _ in stored)
    if model.tied_embeddings and head in found:
        if embedding in found:
            _check_equal(source, *(next(info for plain, info in stored if plain == name) for name in (head, embedding)))
        else:
            expected[head] = expected.pop(embedding)
    reads: list[Read] = []
    left_over: list[str] = []
    wrong: list[str] = []
    in_blocks = {plain.removesuffix(".weight") for plain, info in stored if info.dtype in BLOCKS}
    for plain, info in stored:
        placements = expected.get(plain)
        if placements is not None:
            placements = tuple(replace(placement, layout=_layout(info, placement)) for placement in placements)
            wrong += _problems(info, placements)
            reads.append(Read(info, placements))
        elif not (
            names.is_dropped(plain)
            or (model.tied_embeddings and plain == head)
            or (plain.removesuffix(".bias") in in_blocks and _is_zero(source, info))
        ):
            left_over.append(info.name)
    twice = [name for name, count in found.items() if count > 1 and name in expected]
    missing = [name for name in expected if name not in found]
    _report(source, missing=missing, left_over=left_over, twice=twice, wrong=wrong)
    return reads


def _is_zero(source: ModelSource, info: TensorInfo) -> bool:
    """Whether a bias adds nothing: AutoGPTQ gave one to every linear that it quantized."""
    return info.is_float and not any(widen(numbers).any() for _, numbers in source.read([info]))


def _embedding_name(family: Family) -> str:
    return next(f"{name}.weight" for name, target in family.modules.items() if target == Target("embed"))


def _check_equal(source: ModelSource, head: TensorInfo, embedding: TensorInfo) -> None:
    """A head that is stored although it is tied must be the embedding, or the config is wrong about it."""
    if embedding.is_float and head.is_float and head.shape == embedding.shape:
        (_, ours), (_, theirs) = *source.read([head]), *source.read([embedding])
        starts = range(0, len(ours), COMPARED_ROWS)
        if all(
            np.array_equal(widen(ours[i : i + COMPARED_ROWS]), widen(theirs[i : i + COMPARED_ROWS])) for i in starts
        ):
            return
    raise ModelError(
        f"{source.path} stores {head.name} with other numbers than the embedding, but its config.json ties the two: if "
        "they are meant to differ, set tie_word_embeddings to false there"
    )


def _layout(info: TensorInfo, placement: Placement) -> Layout:
    """That of the file, else the family's, but for blocks: their rows are outputs everywhere."""
    if info.layout is not None:
        return info.layout
    return untransposed(placement.layout) if info.dtype in BLOCKS else placement.layout


def _problems(info: TensorInfo, placements: Placements) -> list[str]:
    placement, count = placements[0], len(placements)
    shape = (count, *placement.shape) if count > 1 else placement.shape
    if info.shape != shape:
        return [f"{info.name} has shape {list(info.shape)} but the config asks for {list(shape)}"]
    if info.is_float or (info.dtype in BLOCKS and placement.columns):
        return []
    blocks = f" and, for matrices of GGUF files, {', '.join(GGUF_BLOCKS)}" if info.layout else ""
    return [f"{info.name} has type {info.dtype}, but only F32, F16, BF16 and F64{blocks} are supported"]


def _report(
    source: ModelSource, *, missing: list[str], left_over: list[str], twice: list[str], wrong: list[str]
) -> None:
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
    if any(name.rpartition(".")[2] in _QUANTIZED for name in left_over):
        problems.append(
            "some hold quantized weights, which are read only as config.json's quantization_config says: load the "
            "model's float weights"
        )
    if problems:
        raise ModelError(f"the weights in {source.path} do not fit its config.json; " + "; ".join(problems))
