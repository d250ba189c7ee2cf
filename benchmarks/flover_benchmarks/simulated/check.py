"""The error of simulated times: fits this machine's cost, then simulates and measures one workload."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flover.bench.metrics import Spread, summarise
from flover.bench.workload import TOKEN_IDS, fixed, fixed_arrivals, random_jobs
from flover.config import EngineConfig
from flover.engine.strategy import Strategy
from flover.executor.load import load_device
from flover.service.build import scheduler_config
from flover_benchmarks.paper.bench import FUSION, Table, number
from flover_benchmarks.paper.processes import ProcessRunner
from flover_benchmarks.simulated.fit import fit, mean_error, observe
from flover_benchmarks.simulated.runner import SimulatedRunner

GAP_SHARE = 0.1
"""Interval between arrivals over the simulated time of a lone request."""


@dataclass(frozen=True, slots=True)
class Check:
    """Simulated and measured metrics."""

    table: Table
    facts: dict[str, Any]


def check(
    config: EngineConfig, num_requests: int, prompt_len: int, output_len: int, progress: Callable[[str], None]
) -> Check:
    """Fit, simulate, measure. Raises what loading a model raises."""
    progress("loading")
    executor = load_device(config, lambda done, total: None)
    limits = dataclasses.replace(
        scheduler_config(config, executor.facts),
        enable_prefix_caching=False,
        policy="fcfs",
        strategy=Strategy.FUSION,
        reorder=True,
        target_itl_ms=0.0,
    )
    observations = observe(executor, limits, lambda done, total: progress(f"watching: round {done + 1} of {total}"))
    executor.close()
    cost = fit(observations)
    runner = SimulatedRunner(cost, config.max_num_seqs, config.target_itl_ms)
    alone = runner.run(random_jobs(0, [0.0], fixed(prompt_len), fixed(output_len), TOKEN_IDS), FUSION).seconds
    arrivals = fixed_arrivals(num_requests, GAP_SHARE * alone)
    jobs = random_jobs(1, arrivals, fixed(prompt_len), fixed(output_len), TOKEN_IDS)
    simulated = summarise(runner.run(jobs, FUSION).records)
    with ProcessRunner(config, lambda label: progress("measuring")) as real:
        real.run(random_jobs(2, [0.0], fixed(prompt_len), fixed(output_len), TOKEN_IDS), FUSION)
        measured = summarise(real.run(jobs, FUSION).records)
    rows, errors = [], {}
    for label, name in (("time to first token", "ttft"), ("inter-token gap", "itl"), ("end to end", "e2el")):
        for figure in ("mean", "p50", "p99"):
            ours, theirs = _of(getattr(simulated, name), figure), _of(getattr(measured, name), figure)
            errors[f"{name}_{figure}"] = ours / theirs - 1
            rows.append((f"{label}, {figure}, ms", number(ours), number(theirs), f"{ours / theirs - 1:+.1%}"))
    error = mean_error(cost, observations)
    rows.append(("error of the fitted cost, mean over iterations", "", "", f"{error:.1%}"))
    points = " ".join(f"{tokens}:{milliseconds:.3g}" for tokens, milliseconds in cost.points)
    rows.append(("cost, tokens:ms", points, "", f"+ {cost.per_context * 1e6:.3g} ns per context"))
    title = f"{num_requests} requests, one every {GAP_SHARE * alone:.3g} s, {prompt_len} in, {output_len} out"
    return Check(
        Table(title, ("", "simulated", "measured", "error"), tuple(rows)),
        {"errors": errors, "fit_error": error, "cost": [list(p) for p in cost.points], "per_context": cost.per_context},
    )


def _of(spread: Spread, figure: str) -> float:
    value: float = getattr(spread, figure)
    return value
