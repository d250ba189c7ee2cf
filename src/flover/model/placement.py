"""Which tensor of a checkpoint fills which part of which weight, worked out from a family's row and a config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from flover.model.config import ModelConfig, parameter_shapes
from flover.model.families import Family
from flover.model.family_modules import Part, Target
from flover.ops import HostArray
from flover.source import Layout


@dataclass(frozen=True, slots=True)
class Placement:
    """A checkpoint tensor, without its first `skipped` rows, fills rows `start` to `stop` of `parameter`, which are
    [`num_heads`, …] and have so many `columns` (none: a bias or a norm)."""

    parameter: str
    start: int
    stop: int
    layout: Layout
    columns: tuple[int, ...]
    num_heads: int
    num_kv_heads: int
    skipped: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor in the checkpoint."""
        shape = (self.skipped + self.stop - self.start, *self.columns)
        return shape[::-1] if self.layout.startswith("transposed") else shape

    def pieces(self, tensor: HostArray) -> Iterator[tuple[int, HostArray]]:
        """The checkpoint tensor cut into (first row of the parameter, views of rows that follow one another there)."""
        if self.layout == "transposed":
            yield self.start, tensor.T
        elif self.layout.endswith("interleaved"):  # of gate and up
            rows = tensor if self.layout == "interleaved" else tensor.T
            for half in range(2):
                yield self.start + half * (len(rows) // 2), rows[half::2]
        elif self.layout == "paired":
            heads = tensor.reshape(self.num_heads, -1, 2, *tensor.shape[1:])
            rows = heads.shape[1]
            for head in range(self.num_heads):
                for half in range(2):
                    yield self.start + (2 * head + half) * rows, heads[head, :, half]
        elif self.layout == "by_group":
            sizes = self.num_heads // self.num_kv_heads, 1, 1
            groups = tensor.reshape(self.num_kv_heads, sum(sizes), -1, *tensor.shape[1:])
            yield from self._dealt(groups, sizes, (0, 1, 2))
        elif self.layout == "by_quarter":
            yield from self._dealt(tensor.reshape(4, 3, -1, *tensor.shape[1:]), (1, 1, 1), (0, 2, 1))
        else:
            yield self.start, tensor[self.skipped :]

    def _dealt(
        self, groups: HostArray, sizes: tuple[int, ...], order: tuple[int, ...]
    ) -> Iterator[tuple[int, HostArray]]:
        """Pieces of groups that each hold parts of these `sizes`; `order` is the place of each part in the weight."""
        count, rows = len(groups), groups.shape[2]
        begins = [sum(sizes[other] for other in range(len(sizes)) if order[other] < place) for place in order]
        for group in range(count):
            first = 0
            for size, begin in zip(sizes, begins, strict=True):
                part = groups[group, first : first + size]
                yield self.start + (count * begin + group * size) * rows, part.reshape(size * rows, *part.shape[2:])
                first += size


Placements = tuple[Placement, ...]
"""Of one tensor: a single one, or for each expert that of its part of a tensor [experts, …]."""


def expected_tensors(family: Family, config: ModelConfig) -> dict[str, Placements]:
    """Every tensor that a checkpoint must have, by its name without the family's prefix; together they fill all
    weights exactly once. The output projection has the first of its names."""
    shapes = parameter_shapes(config)
    expected: dict[str, Placements] = {}
    for name, target in {**family.modules, family.heads[0]: Target("head")}.items():
        for module, filled in _modules(name, target.module, config):
            for suffix in ("weight", "bias"):
                parameters = [f"{one}.{suffix}" for one in filled if f"{one}.{suffix}" in shapes]
                if parameters:
                    placements = tuple(_place(one, shapes[one], target, config) for one in parameters)
                    bare = module if suffix == "weight" else f"{module}_bias"
                    expected[bare if target.bare else f"{module}.{suffix}"] = placements
    return expected


def _modules(name: str, module: str, config: ModelConfig) -> Iterator[tuple[str, list[str]]]:
    """The modules of a checkpoint that a name stands for, each with those of ours that it fills."""
    experts = range(config.experts.count if config.experts else 0)
    for layer in range(config.num_layers if "{}" in name else 1):
        if module.count("{}") < 2:
            yield name.format(layer), [module.format(layer)]
        elif name.count("{}") < 2:
            yield name.format(layer), [module.format(layer, expert) for expert in experts]
        else:
            for expert in experts:
                yield name.format(layer, expert), [module.format(layer, expert)]


def _place(parameter: str, shape: tuple[int, ...], target: Target, config: ModelConfig) -> Placement:
    start, stop = _rows(target.part, shape[0], config)
    layout = target.layout if len(shape) == 2 else untransposed(target.layout)
    num_heads = config.num_kv_heads if target.part in ("key", "value") else config.num_heads
    return Placement(parameter, start, stop, layout, shape[1:], num_heads, config.num_kv_heads, target.skipped)


def untransposed(layout: Layout) -> Layout:
    """The order of what has its rows as outputs where matrices of this layout have not: biases, and blocks."""
    match layout:
        case "transposed":
            return "plain"
        case "transposed_interleaved":
            return "interleaved"
        case _:
            return layout


def _rows(part: Part, num_rows: int, config: ModelConfig) -> tuple[int, int]:
    """The rows of a packed weight that a part takes."""
    query_size, kv_size, inner = config.query_size, config.kv_size, num_rows // 2
    rows: Mapping[Part, tuple[int, int]] = {
        "query": (0, query_size),
        "key": (query_size, query_size + kv_size),
        "value": (query_size + kv_size, config.qkv_size),
        "gate": (0, inner),
        "up": (inner, num_rows),
    }
    return rows.get(part, (0, num_rows))


STACKED = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")
"""How transformers 5 calls the matrices of all experts of a layer, which may be saved so; they have no suffix."""


def in_stacks(family: Family) -> Family:
    """The family's row for a checkpoint with such names."""
    if any(name.endswith(STACKED) for name in family.modules):
        return family
    ours = "layers.{}.router", "layers.{}.experts.{}.up", "layers.{}.experts.{}.down"
    theirs = ("layers.{}.mlp.gate", *(f"layers.{{}}{name}" for name in STACKED))
    modules = {name: target for name, target in family.modules.items() if target.module not in ours}
    stacked = {name: Target(module, bare=name.endswith(STACKED)) for name, module in zip(theirs, ours, strict=True)}
    return replace(family, modules=modules | stacked)


class TensorNames:
    """How the tensors of a checkpoint are called: with the family's prefix or without, some to be dropped."""

    def __init__(self, family: Family) -> None:
        self._prefixes = (*family.other_prefixes, family.prefix)
        self._other_parts = (*family.other_parts, *(f"{family.prefix}{part}" for part in family.other_parts))
        self._heads = family.heads
        patterns = (re.escape(name).replace(r"\{\}", r"\d+") for name in family.dropped)
        self._dropped = re.compile("|".join(patterns) or r"(?!)")

    def plain(self, name: str) -> str:
        """The name as `expected_tensors` has it."""
        if self._other_parts and name.startswith(self._other_parts):
            return name
        name = name.removeprefix(next((prefix for prefix in self._prefixes if name.startswith(prefix)), ""))
        module, _, suffix = name.rpartition(".")
        return f"{self._heads[0]}.{suffix}" if module in self._heads else name

    def is_dropped(self, plain: str) -> bool:
        """Whether a tensor is known to hold no weights: masks and tables that old versions saved."""
        return self._dropped.fullmatch(plain) is not None or plain.startswith(self._other_parts)
