"""`flover bench structured-outputs`: what an iteration costs when its rows are constrained.

One engine runs batches of equal requests, free and with each kind of constraint, in turns; only iterations in which
every row generates count. The ratio is the median over rounds, each against its own free batch, so that other load on
the machine meets all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from flover.engine.loop import Engine
from flover.request import Request, SamplingParams
from flover.structured_outputs import StructuredOutputsParams, Vocabulary

FREE = "none"
_ITEM = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "tag": {"enum": ["alpha", "beta", "gamma"]},
        "note": {"type": "string", "minLength": 40},
    },
    "required": ["id", "tag", "note"],
    "additionalProperties": False,
}
_GBNF = r"""
root ::= (sum ";\n"){500,}
sum ::= term (" " [-+*/] " " term)*
term ::= [0-9]+ | [a-z]+ | "(" sum ")"
"""
_LARK = r"""
start: (sum ";\n"){500,}
sum: term (" " /[-+*\/]/ " " term)*
term: NUMBER | NAME | "(" sum ")"
NUMBER: /[0-9]+/
NAME: /[a-z]+/
"""
CONSTRAINTS: Mapping[str, StructuredOutputsParams | None] = {
    FREE: None,
    "JSON Schema": StructuredOutputsParams(json={"type": "array", "items": _ITEM, "minItems": 1000}),
    "regex": StructuredOutputsParams(regex=r"([A-Z][a-z]+ ){1000,}"),
    "grammar, GBNF": StructuredOutputsParams(grammar=_GBNF),
    "grammar, Lark": StructuredOutputsParams(grammar=_LARK),
}
"""Under the names that the table has. No answer ends before `max_tokens`."""


@dataclass(frozen=True, slots=True)
class ConstraintsResult:
    """An iteration with one kind of constraint: milliseconds, and against a free one, medians over rounds."""

    constraint: str
    step_ms: float
    ratio: float


def measure_constraints(
    engine: Engine, vocabulary: Vocabulary, rows: int, steps: int, rounds: int, ended: Callable[[], None]
) -> list[ConstraintsResult]:
    """All kinds, in turns: batches of `rows` requests for `steps` tokens each."""
    times: dict[str, list[float]] = {name: [] for name in CONSTRAINTS}
    for turn in range(rounds + 1):
        for name, constraint in CONSTRAINTS.items():
            seconds = _run_batch(engine, constraint, vocabulary, rows, steps, f"{turn}-{name}")
            if turn:  # the first compiles
                times[name].append(seconds)
            ended()
    return [
        ConstraintsResult(
            name,
            1000 * median(own),
            median(step / before for step, before in zip(own, times[FREE], strict=True)),
        )
        for name, own in times.items()
    ]


def _run_batch(
    engine: Engine,
    constraint: StructuredOutputsParams | None,
    vocabulary: Vocabulary,
    rows: int,
    steps: int,
    name: str,
) -> float:
    """Median seconds of an iteration of all rows, whose tokens are drawn."""
    params = SamplingParams(
        temperature=0.8, max_tokens=steps, ignore_eos=constraint is None, structured_outputs=constraint
    )
    for row in range(rows):
        engine.submit(Request(id=f"{name}-{row}", prompt_ids=[1 + row], params=params, seed=row), vocabulary)
    times = []
    while engine.has_work:
        began = time.perf_counter()
        deltas = engine.step()
        seconds = time.perf_counter() - began
        if len(deltas) == rows and not any(delta.finish_reason for delta in deltas):
            times.append(seconds)
    return median(times[1:])


def constraints_table(title: str, results: Sequence[ConstraintsResult]) -> Table:
    """One row for each kind of constraint."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("constraint")
    for name in ("ms per iteration", "of a free one"):
        table.add_column(name, justify="right")
    for one in results:
        table.add_row(one.constraint, f"{one.step_ms:.2f}", f"{one.ratio:.3f} x")
    return table
