"""What a checkpoint's files hold matched with what a model needs, before any weight is read."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flover.errors import ModelError
from flover.files import is_there
from flover.model.checkpoint import TensorInfo, find_files, list_tensors, read_tensors, widen
from flover.model.config import ModelConfig
from flover.model.families import Family, Target
from flover.model.placement import Placement, TensorNames, expected_tensors

COMPARED_ROWS = 4096
"""Rows of embedding and head that are compared at once."""
_NAMED = 5  # tensors to name in one error
_QUANTIZED = ("qweight", "qzeros", "scales", "weight_scale", "weight_scale_inv", "weight_packed", "absmax", "SCB")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Read:
    """One tensor to read: where it is, and where it goes."""

    file: Path
    info: TensorInfo
    placement: Placement


def plan_reads(path: Path, family: Family, model: ModelConfig) -> list[Read]:
    """The tensors to read from the files in `path`; together they fill every weight exactly once.

    Where embedding and output projection are tied, either of the two may be stored, or both with equal numbers. Raises
    `ModelError` naming what is missing, left over, there twice or not usable.
    """
    expected, names = expected_tensors(family, model), TensorNames(family)
    head, embedding = f"{family.heads[0]}.weight", _embedding_name(family)
    if is_there(path / "adapter_config.json"):
        logger.warning("%s has an adapter beside the model: it is not applied", path)
    stored = [(names.plain(info.name), file, info) for file in find_files(path) for info in list_tensors(file)]
    found = Counter(plain for plain, _, _ in stored)
    if model.tied_embeddings and head in found:
        if embedding in found:
            _check_equal(
                path,
                *(next((file, info) for plain, file, info in stored if plain == name) for name in (head, embedding)),
            )
        else:
            expected[head] = expected.pop(embedding)
    reads: list[Read] = []
    left_over: list[str] = []
    wrong: list[str] = []
    for plain, file, info in stored:
        placement = expected.get(plain)
        if placement is not None:
            wrong += _problems(info, placement)
            reads.append(Read(file, info, placement))
        elif not names.is_dropped(plain) and not (model.tied_embeddings and plain == head):
            left_over.append(info.name)
    twice = [name for name, count in found.items() if count > 1 and name in expected]
    missing = [name for name in expected if name not in found]
    _report(path, missing=missing, left_over=left_over, twice=twice, wrong=wrong)
    return reads


def _embedding_name(family: Family) -> str:
    return next(f"{name}.weight" for name, target in family.modules.items() if target == Target("embed"))


def _check_equal(path: Path, head: tuple[Path, TensorInfo], embedding: tuple[Path, TensorInfo]) -> None:
    """A head that is stored although it is tied must be the embedding, or the config is wrong about it."""
    (head_file, head_info), (file, info) = head, embedding
    if info.is_float and head_info.is_float and head_info.shape == info.shape:
        ours = next(read_tensors(head_file, [head_info.name]))[1]
        theirs = next(read_tensors(file, [info.name]))[1]
        starts = range(0, len(ours), COMPARED_ROWS)
        if all(
            np.array_equal(widen(ours[i : i + COMPARED_ROWS]), widen(theirs[i : i + COMPARED_ROWS])) for i in starts
        ):
            return
    raise ModelError(
        f"{path} stores {head_info.name} with other numbers than the embedding, but its config.json ties the two: if "
        "they are meant to differ, set tie_word_embeddings to false there"
    )


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
    if any(name.rpartition(".")[2] in _QUANTIZED for name in left_over):
        problems.append("some hold quantized weights, which are not read: load the model's float weights")
    if problems:
        raise ModelError(f"the weights in {path} do not fit its config.json; " + "; ".join(problems))
