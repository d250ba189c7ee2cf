"""The invariance test: compares the outputs of every cell of a matrix with those of the baseline, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.model.describe import describe_model
from flover.model.shard import Shard
from flover.selftest.arrange import open_engine, run_cell
from flover.selftest.matrix import SLOW, Cell, Space, baseline
from flover.selftest.probes import NUM_OUTPUTS, Answer, difference, make_probes
from flover.service.build import check_extras

_NUM_SLOW_OUTPUTS = 3
"""First output tokens that are compared with the slow instruction set."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A cell and its first difference, None if there is none."""

    cell: Cell
    difference: str | None


def check_cells(config: EngineConfig, space: Space, cells: Sequence[Cell]) -> Iterator[Finding]:
    """Run the cells, which must be grouped by engine; settings of a cell override those of `config`.

    Raises `ModelError`, `ConfigError`, `RequestError`, and `InvariantError` if the conditions of a cell were not met.
    """
    rows = max(space.batch)
    plain = baseline(space)
    with open_engine(config, plain, rows) as engine:
        expected = run_cell(engine, plain, make_probes(engine.facts))
    for _, group in itertools.groupby(cells, key=lambda cell: cell.engine):
        mine = list(group)
        with open_engine(config, mine[0], rows) as engine:
            for cell in mine:
                num_outputs = _NUM_SLOW_OUTPUTS if cell.isa == SLOW else NUM_OUTPUTS
                answers = run_cell(engine, cell, make_probes(engine.facts, num_outputs))
                yield Finding(cell, _first_difference(expected, answers, num_outputs))


def _first_difference(expected: dict[str, Answer], actual: dict[str, Answer], num_outputs: int) -> str | None:
    for name, answer in actual.items():
        found = difference(expected[name][:num_outputs], answer)
        if found is not None:
            return f"{name.removeprefix('probe:')}: {found}"
    return None


def without_ranks(space: Space, config: EngineConfig) -> tuple[Space, list[str]]:
    """The space without numbers of ranks that this model, in the format of `config`, or this installation cannot do,
    and why not. The first number stays."""
    if config.device == "cuda":
        return replace(space, ranks=space.ranks[:1]), ["--device cuda computes on one GPU"]
    kept, reasons = [space.ranks[0]], []
    for ranks in space.ranks[1:]:
        chosen = replace(config, tensor_parallel_size=ranks)
        try:
            check_extras(chosen)
            describe_model(chosen, Shard(0, ranks), weights=False)
            kept.append(ranks)
        except ConfigError as error:
            reasons.append(str(error))
    return replace(space, ranks=tuple(kept)), reasons


def restricted(space: Space, config: EngineConfig, given: frozenset[str]) -> Space:
    """The space, with each factor that has a flag in `given` restricted to the flag's value."""
    chosen = space
    if "cpu_isa" in given and config.cpu_isa != "auto":
        chosen = replace(chosen, isa=(config.cpu_isa,))
    if "num_threads" in given and config.num_threads is not None:
        chosen = replace(chosen, threads=(config.num_threads,))
    if "block_size" in given:
        chosen = replace(chosen, page_size=(config.block_size,))
    if "tensor_parallel_size" in given:
        chosen = replace(chosen, ranks=(config.tensor_parallel_size,))
    if "max_num_seqs" in given:
        chosen = replace(chosen, batch=tuple(batch for batch in space.batch if batch <= config.max_num_seqs))
    return chosen
