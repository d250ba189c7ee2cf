"""`flover selftest invariance`: a reduced matrix for every family and format, and what it must not miss."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import FAMILIES, make_checkpoint
from torch import Tensor

from flover.cli.main import main
from flover.config import EngineConfig
from flover.engine.plan import StepPlan
from flover.engine.scheduler import Scheduler
from flover.errors import InvariantError
from flover.executor import cpu
from flover.model.sampling import sampler
from flover.ops import Ops, cpu_weight
from flover.ops.cpu import cpu_ops, instruction_sets
from flover.ops.cpu_weight import PackedWeight
from flover.request import TokenLogprobs
from flover.selftest.arrange import open_engine, run_cell
from flover.selftest.invariance import check_cells, without_ranks
from flover.selftest.matrix import FORMATS, Cell, Space, all_cells, baseline, few_cells
from flover.selftest.probes import Answer, difference, make_probes

ISAS = tuple(instruction_sets())
SMALL = Space(isa=ISAS, page_size=(16, 5), ranks=(1,), batch=(1, 3), chunk=(0, 5))
PLAIN = baseline(SMALL)
HARD = [
    dataclasses.replace(PLAIN, threads=2, warm=True, batch=7, chunk=5),
    dataclasses.replace(PLAIN, page_size=5, preempted=True, batch=3),
    dataclasses.replace(PLAIN, isa=ISAS[-1], page_size=5, threads=2, batch=2, chunk=64),
    dataclasses.replace(PLAIN, isa=ISAS[-1], page_size=5, threads=2, warm=True, preempted=True, chunk=1),
    *(dataclasses.replace(PLAIN, isa=isa, batch=3) for isa in ISAS[1:-1]),
]
"""Several changes at once; together, every one of them."""
PAIRS = [
    pytest.param(family, name, marks=[] if (row - column) % len(FORMATS) == 0 else [pytest.mark.long])
    for row, family in enumerate(FAMILIES)
    for column, name in enumerate(FORMATS)
]
"""Each family in one format, and each format, take part in `make test`."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_checkpoint(tmp_path_factory.mktemp("llama"), "llama"))


def differences(config: EngineConfig, space: Space, cells: list[Cell]) -> dict[Cell, str]:
    findings = check_cells(config, space, cells)
    return {finding.cell: finding.difference for finding in findings if finding.difference is not None}


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_every_family_in_every_format(tmp_path: Path, family: str, name: str) -> None:
    config = EngineConfig(model=str(make_checkpoint(tmp_path, family)), **FORMATS[name])
    assert differences(config, dataclasses.replace(SMALL, batch=(1, 2, 3, 7)), HARD) == {}


@pytest.mark.parametrize("name", ["float32", "int8"])
def test_every_change_alone_and_every_two_together(llama: str, name: str) -> None:
    assert differences(EngineConfig(model=llama, **FORMATS[name]), SMALL, few_cells(SMALL)) == {}


def test_the_command_says_that_all_is_equal(capsys: pytest.CaptureFixture[str]) -> None:
    narrow = ["--block-size", "16", "--num-threads", "1", "--max-num-seqs", "2", "--cpu-isa", ISAS[0]]
    narrow += ["--tensor-parallel-size", "1"]
    assert main(["selftest", "invariance", "--formats", "bfloat16", "int8-cache", *narrow]) == 0
    out = capsys.readouterr().out
    facts = json.loads(out.splitlines()[-1])
    assert facts["equal"] is True
    assert facts["formats"].keys() == {"bfloat16", "int8-cache"}
    assert facts["formats"]["bfloat16"]["unequal"] == []
    assert facts["formats"]["bfloat16"]["cells"] >= 10
    assert "≠ not" in out
    assert out.count("≠") == 1  # in the legend


# What it must not miss. Each plant makes an answer depend on one thing that it must not depend on.


def split(ops: Ops, wrong: Callable[[Tensor], bool]) -> Ops:
    """Plain linears whose sum over the input is taken in two halves where `wrong` says so."""

    def linear(x: Tensor, weight: PackedWeight, bias: Tensor | None, kind: str | None) -> Tensor:
        if kind is not None or not wrong(x):
            return ops.linear(x, weight, bias, kind)
        half = x.shape[1] // 2
        low, high = x.copy(), x.copy()
        low[:, half:] = 0
        high[:, :half] = 0
        return ops.linear(low, weight, bias, None) + ops.linear(high, weight, None, None)

    return dataclasses.replace(ops, linear=linear, capture=None)  # type: ignore[arg-type]


PLANTS: dict[str, tuple[Callable[..., Ops], Callable[[Cell], bool]]] = {
    "number-of-rows": (
        lambda isa, threads, group: split(cpu_ops(isa, threads), lambda x: 4 <= x.shape[0] <= 30),
        lambda cell: cell.batch > 3 or cell.chunk == 5,
    ),
    "threads": (
        lambda isa, threads, group: split(cpu_ops(isa, threads), lambda x: threads > 1),
        lambda cell: cell.threads > 1,
    ),
    "instruction-set": (
        lambda isa, threads, group: split(cpu_ops(isa, threads), lambda x: isa != ISAS[0]),
        lambda cell: cell.isa != ISAS[0],
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_dependence_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch, llama: str, name: str) -> None:
    broken, seen = PLANTS[name]
    monkeypatch.setattr(cpu, "cpu_ops", broken)
    space = Space(isa=ISAS, page_size=(16,), ranks=(1,), warm=(False,), preempted=(False,), batch=(1, 7), chunk=(0, 5))
    cells = few_cells(space)
    found = differences(EngineConfig(model=llama), space, cells)
    assert found.keys() == {cell for cell in cells if seen(cell)}
    assert len(found) < len(cells)


def test_the_command_reports_a_planted_batch_dependent_sum(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], llama: str
) -> None:
    monkeypatch.setattr(cpu, "cpu_ops", PLANTS["number-of-rows"][0])
    narrow = ["--block-size", "16", "--num-threads", "1", "--max-num-seqs", "7", "--cpu-isa", ISAS[0]]
    narrow += ["--tensor-parallel-size", "1"]
    assert main(["selftest", "invariance", llama, *narrow]) == 1
    out = capsys.readouterr().out
    facts = json.loads(out.splitlines()[-1])
    (results,) = facts["formats"].values()
    assert facts["equal"] is False
    assert 0 < len(results["unequal"]) < results["cells"]
    assert "≠ batch 7" in out
    assert "log-probability of" in out


def test_a_sum_that_is_cut_where_ranks_are_is_found(monkeypatch: pytest.MonkeyPatch, llama: str) -> None:
    """With rank 1 in a process of its own."""
    space = dataclasses.replace(SMALL, isa=ISAS[:1], threads=(1,), page_size=(16,), ranks=(1, 2), chunk=(0,))
    plain, config = baseline(space), EngineConfig(model=llama)
    shared = dataclasses.replace(plain, ranks=2)
    assert differences(config, space, [plain, shared, dataclasses.replace(shared, batch=3)]) == {}
    monkeypatch.setattr(cpu_weight, "segments_of", lambda weight_format, whole, inputs: 1)
    assert differences(config, space, [plain, shared]).keys() == {shared}


def test_ranks_that_cannot_share_a_model_are_named(llama: str) -> None:
    assert without_ranks(Space(isa=ISAS), EngineConfig(model=llama))[0].ranks == (1, 2, 4)
    space, reasons = without_ranks(Space(isa=ISAS), EngineConfig(model=llama, quantization="int8"))
    assert space.ranks == (1,) and [reason[:26] for reason in reasons] == [
        f"--tensor-parallel-size {n} c" for n in (2, 4)
    ]


def test_a_draw_that_depends_on_the_company_is_found(monkeypatch: pytest.MonkeyPatch, llama: str) -> None:
    right = sampler.uniforms
    monkeypatch.setattr(sampler, "uniforms", lambda seeds, counts: right(seeds + np.int64(len(seeds)), counts))
    space = dataclasses.replace(SMALL, isa=ISAS[:1], threads=(1,), page_size=(16,), batch=(1, 7), chunk=(0,))
    cells = [baseline(space), dataclasses.replace(baseline(space), batch=7)]
    found = differences(EngineConfig(model=llama), space, cells)
    assert [(cell.batch, text.split(":")[0]) for cell, text in found.items()] == [(7, "seeded")]


# The arrangements are what they say.


@pytest.mark.parametrize("chunk", [0, 5, 1])
def test_batch_and_chunks_are_as_the_cell_says(monkeypatch: pytest.MonkeyPatch, llama: str, chunk: int) -> None:
    plans: list[StepPlan] = []
    right = Scheduler.plan

    def plan(scheduler: Scheduler, now: float) -> StepPlan | None:
        made = right(scheduler, now)
        if made is not None:
            plans.append(made)
        return made

    monkeypatch.setattr(Scheduler, "plan", plan)
    cell = dataclasses.replace(PLAIN, batch=6, chunk=chunk)
    with open_engine(EngineConfig(model=llama), cell, 6) as engine:
        (probe, *_) = make_probes(engine.facts)
        run_cell(engine, cell, [probe])
    arrival = next(i for i, plan in enumerate(plans) if probe.prompt_ids in [one.prompt_ids for one in plan.admissions])
    pieces = [
        (len(plan.generating), [len(c.token_ids) for c in plan.chunks]) for plan in plans[arrival:] if plan.chunks
    ]
    length = len(probe.prompt_ids)
    sizes = [min(chunk, length - start) for start in range(0, length, chunk)] if chunk else [length]
    assert pieces == [(5, [size]) for size in sizes]


def test_an_arrangement_that_cannot_be_made_is_an_error(llama: str) -> None:
    cell = dataclasses.replace(PLAIN, batch=2)
    with (
        open_engine(EngineConfig(model=llama), cell, 1) as engine,
        pytest.raises(InvariantError, match="batch 2"),
    ):
        run_cell(engine, cell, make_probes(engine.facts))


def test_a_model_with_too_little_context_is_refused(llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "invariance", llama, "--max-model-len", "64"]) == 2
    assert "76 tokens of context, the model has 64" in capsys.readouterr().err


def test_formats_and_types_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "invariance", "--formats", "int8", "--dtype", "bfloat16"]) == 2
    assert "--formats" in capsys.readouterr().err


# Pure parts.


def test_few_cells_have_every_value_alone_and_every_pair() -> None:
    space = Space(isa=("fast", "slow"))
    cells, plain = few_cells(space), baseline(space)
    names = [item.name for item in dataclasses.fields(Cell)]
    for name in names:
        for value in getattr(space, name):
            assert dataclasses.replace(plain, **{name: value}) in cells
    for one, other in itertools.combinations(names, 2):
        wanted = set(itertools.product(getattr(space, one), getattr(space, other)))
        assert {(getattr(cell, one), getattr(cell, other)) for cell in cells} == wanted
    assert len(cells) < 60
    assert len(set(cells)) == len(cells)


def test_all_cells_come_engine_by_engine() -> None:
    cells = all_cells(Space(isa=("fast", "slow")))
    assert len(set(cells)) == len(cells) == 2 * 2 * 3 * 3 * 2 * 2 * 7 * 4
    assert len(list(itertools.groupby(cells, key=lambda cell: cell.engine))) == 36
    assert len(list(itertools.groupby(few_cells(Space(isa=("fast", "slow"))), key=lambda cell: cell.engine))) <= 14


def entry(token: int, *logprobs: float) -> TokenLogprobs:
    return TokenLogprobs([token, 7][: len(logprobs)], list(logprobs), [1, 2][: len(logprobs)])


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        ([(3, entry(3, -0.5, -1.5)), (4, entry(4, -0.25))], None),
        ([(3, entry(3, -0.5, -1.5)), (5, entry(5, -0.25))], "token 1 is 5 and not 4"),
        ([(3, entry(3, -0.5, float(np.nextafter(-1.5, 0)))), (4, entry(4, -0.25))], "token 0 has a log-probability"),
        ([(3, entry(3, -0.5)), (4, entry(4, -0.25))], "other top tokens"),
        ([(3, None), (4, entry(4, -0.25))], "no log-probabilities"),
        ([(3, entry(3, -0.5, -1.5))], "1 output tokens and not 2"),
    ],
)
def test_a_difference_of_one_bit_is_a_difference(actual: Answer, says: str | None) -> None:
    found = difference([(3, entry(3, -0.5, -1.5)), (4, entry(4, -0.25))], actual)
    assert found == says if says is None else found is not None and says in found
