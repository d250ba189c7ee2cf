"""LoRA adapters for a loaded model: from the tensors of a file to parts of the decoder's packed linears.

The modules of an adapter have the names that the base model's checkpoint has on Hugging Face, whatever form the base
model was read from: `placement.py` says which rows of which linear a module fills.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from flover.errors import ModelError
from flover.files import shown
from flover.lora import LoraAdapter
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.families import Family
from flover.model.placement import Placement, TensorNames, expected_tensors, untransposed
from flover.ops.adapters import AdapterOps, AdapterPart, AdapterTable
from flover.source.numbers import widen
from flover.source.peft import LoraPair, PeftAdapter

MOST_PARTS = 3
"""Modules of a checkpoint that fill one linear: queries, keys and values."""

AdapterParts = Mapping[str, list[AdapterPart]]
"""What an adapter has for each linear, by the name of its weight."""


def adapted_weights(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Name and shape of the weights of linears that adapters may change."""
    return {
        name: (shape[0], shape[1])
        for name, shape in parameter_shapes(config).items()
        if len(shape) == 2 and name.startswith("layers.") and ".experts." not in name and ".router." not in name
    }


def new_tables(config: ModelConfig, ops: AdapterOps, num_slots: int) -> dict[str, AdapterTable]:
    """Empty slots for every linear."""
    return {name: ops.new_table(num_slots, MOST_PARTS, shape) for name, shape in adapted_weights(config).items()}


@dataclass(frozen=True, slots=True)
class AdapterReader:
    """Reads adapters of one model, up to `max_rank`."""

    family: Family
    config: ModelConfig
    max_rank: int

    def read(self, adapter: LoraAdapter) -> AdapterParts:
        """Raises `ModelError` naming what does not fit the model, or cannot be computed."""
        files = PeftAdapter(adapter)
        names, expected = TensorNames(self.family), expected_tensors(self.family, self.config)
        linears = adapted_weights(self.config)
        parts: dict[str, list[AdapterPart]] = {}
        for pair in files.pairs():
            placements = expected.get(names.plain(f"{pair.module}.weight"), ())
            if len(placements) != 1 or placements[0].parameter not in linears:
                raise ModelError(
                    f"{files.path} adapts {shown(pair.module)}, which is not a linear of this model that adapters may "
                    "change: those of attention and feed-forward blocks, without experts, embeddings and head"
                )
            if not files.settings.is_target(pair.module):
                raise ModelError(f"{files.path} adapts {shown(pair.module)}, which target_modules does not name")
            parameter = placements[0].parameter
            part = self._part(files, pair, placements[0], linears[parameter][1])
            parts.setdefault(parameter, []).append(part)
        if not parts:
            raise ModelError(f"{files.path} has no tensors")
        return parts

    def _part(self, files: PeftAdapter, pair: LoraPair, placement: Placement, num_inputs: int) -> AdapterPart:
        rank, scale = files.settings.rank_of(pair.module), files.settings.scale_of(pair.module)
        if rank > self.max_rank:
            raise ModelError(f"{files.path}: {pair.module} has rank {rank}, more than --max-lora-rank {self.max_rank}")
        num_outputs = placement.stop - placement.start
        for info, shape in ((pair.down, (rank, num_inputs)), (pair.up, (num_outputs, rank))):
            if info.shape != shape:
                raise ModelError(f"{files.path}: {info.name} has the shape {list(info.shape)}, not {list(shape)}")
        stored = files.numbers(pair.up)
        with np.errstate(over="ignore"):
            fits = np.isfinite(widen(stored) * np.float32(scale)).all()
        if not fits:
            raise ModelError(f"{files.path}: {pair.up.name} times its scale {scale:g} is more than float32 holds")
        own = replace(placement, start=0, stop=num_outputs, layout=untransposed(placement.layout), skipped=0)
        up = np.empty_like(stored)
        for first, rows in own.pieces(stored):
            up[first : first + len(rows)] = rows
        return AdapterPart(placement.start, files.numbers(pair.down), up, scale)
