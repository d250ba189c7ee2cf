"""The findings as a table and as one JSON line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from flover.bench.machine import commit, machine_facts
from flover.selftest.invariance import Finding
from flover.selftest.matrix import Space

EQUAL, UNEQUAL, UNTRIED = "=", "≠", "·"


def matrix(title: str, space: Space, findings: Sequence[Finding]) -> Table:
    """A line for each engine, prefix and preemption; a column for each batch size with a sign for each chunk size."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    for name in ("kernels", "threads", "pages", "ranks", "prefix", "preempt"):
        table.add_column(name, no_wrap=True)
    for batch in space.batch:
        table.add_column(str(batch), no_wrap=True)
    signs = {finding.cell: UNEQUAL if finding.difference else EQUAL for finding in findings}
    ways = dict.fromkeys((*cell.engine, cell.warm, cell.preempted) for cell in signs)
    by_condition = {
        (*cell.engine, cell.warm, cell.preempted, cell.batch, cell.chunk): sign for cell, sign in signs.items()
    }
    for way in ways:
        isa, threads, page_size, ranks, warm, preempted = way
        columns = [
            "".join(by_condition.get((*way, batch, chunk), UNTRIED) for chunk in sorted_chunks(space))
            for batch in space.batch
        ]
        labels = [isa, str(threads), str(page_size), str(ranks)]
        table.add_row(*labels, "warm" if warm else "cold", "yes" if preempted else "no", *columns)
    return table


def sorted_chunks(space: Space) -> list[int]:
    """Small ones first, whole prompts (0) last."""
    return sorted(space.chunk, key=lambda chunk: chunk or float("inf"))


def legend(space: Space) -> str:
    """The legend of the table."""
    chunks = ", ".join(str(chunk) if chunk else "whole" for chunk in sorted_chunks(space))
    return (
        f"Columns: sequences at once; in each, prompts in chunks of {chunks}. "
        f"{EQUAL} the same bits as alone, {UNEQUAL} not, {UNTRIED} not tried."
    )


def json_line(command: str, model: str, results: dict[str, list[Finding]], seconds: float) -> str:
    """Command, machine, model and results as one JSON line."""
    formats: dict[str, Any] = {
        name: {
            "cells": len(findings),
            "unequal": [
                {"cell": str(finding.cell), "difference": finding.difference}
                for finding in findings
                if finding.difference
            ],
        }
        for name, findings in results.items()
    }
    equal = not any(finding.difference for findings in results.values() for finding in findings)
    line = {
        "selftest": "invariance",
        "command": command,
        "machine": machine_facts(),
        "commit": commit(),
        "model": model,
        "formats": formats,
        "equal": equal,
        "seconds": round(seconds, 1),
    }
    return json.dumps(line)
