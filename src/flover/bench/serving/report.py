"""The printed block and the JSON result of `bench serve`, with vLLM's labels, order and keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flover.bench.metrics import RequestRecord
from flover.bench.serving.figures import Figures, Stats
from flover.bench.serving.options import Traffic

WIDTH = 50
HEADINGS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The setup of a run for its result."""

    date: str
    backend: str
    label: str | None
    model_id: str
    tokenizer_id: str | None
    num_prompts: int
    traffic: Traffic
    metrics: Sequence[str]
    limits: Mapping[str, float]
    metadata: Mapping[str, str]


def block(figures: Figures, setup: Setup) -> list[str]:
    """The lines of the block. As in vLLM, maximum concurrency, request rate (when finite) and goodput appear only if
    set."""
    rate, most = setup.traffic.request_rate, setup.traffic.max_concurrency
    lines = [f"{' Serving Benchmark Result ':=^{WIDTH}}"]
    lines += [_line("Successful requests:", figures.completed), _line("Failed requests:", figures.failed)]
    if most is not None:
        lines.append(_line("Maximum request concurrency:", most))
    if not math.isinf(rate):
        lines.append(_line("Request rate configured (RPS):", rate))
    lines += [
        _line("Benchmark duration (s):", figures.duration),
        _line("Total input tokens:", figures.input_tokens),
        _line("Total generated tokens:", figures.output_tokens),
        _line("Request throughput (req/s):", figures.request_throughput),
    ]
    if setup.limits:
        lines.append(_line("Request goodput (req/s):", figures.goodput))
    lines += [
        _line("Output token throughput (tok/s):", figures.output_throughput),
        _line("Peak output token throughput (tok/s):", figures.peak_output_throughput),
        _line("Peak concurrent requests:", float(figures.peak_concurrency)),
        _line("Total token throughput (tok/s):", figures.total_throughput),
    ]
    for name in (name for name in HEADINGS if name in setup.metrics):
        lines += _section(name, figures.metrics[name])
    return [*lines, "=" * WIDTH]


def _section(name: str, stats: Stats) -> list[str]:
    rows = [("Mean", stats.mean), ("Median", stats.median)]
    rows += [(f"P{q:g}", value) for q, value in stats.percentiles.items()]
    lines = [_line(f"{label} {name.upper()} (ms):", value) for label, value in rows]
    return [f"{HEADINGS[name]:-^{WIDTH}}", *lines]


def _line(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"


def result(figures: Figures, setup: Setup) -> dict[str, Any]:
    """The result without individual requests."""
    rate = setup.traffic.request_rate
    found: dict[str, Any] = {
        "date": setup.date,
        "endpoint_type": setup.backend,
        "backend": setup.backend,
        "label": setup.label,
        "model_id": setup.model_id,
        "tokenizer_id": setup.tokenizer_id,
        "num_prompts": setup.num_prompts,
        **setup.metadata,
        "request_rate": "inf" if math.isinf(rate) else rate,
        "burstiness": "inf" if math.isinf(setup.traffic.burstiness) else setup.traffic.burstiness,
        "max_concurrency": setup.traffic.max_concurrency,
    }
    if setup.traffic.ramp_up_strategy is not None:
        found |= {name: getattr(setup.traffic, name) for name in _RAMP}
    found |= {
        "duration": figures.duration,
        "completed": figures.completed,
        "failed": figures.failed,
        "total_input_tokens": figures.input_tokens,
        "total_output_tokens": figures.output_tokens,
        "total_cached_tokens": figures.cached_tokens,
        "request_throughput": figures.request_throughput,
        "request_goodput": figures.goodput if setup.limits else None,
        "output_throughput": figures.output_throughput,
        "total_token_throughput": figures.total_throughput,
        "max_output_tokens_per_s": figures.peak_output_throughput,
        "max_concurrent_requests": figures.peak_concurrency,
    }
    for name in (name for name in HEADINGS if name in setup.metrics):
        stats = figures.metrics[name]
        found |= {f"{key}_{name}_ms": getattr(stats, key) for key in ("mean", "median", "std")}
        found |= {f"p{q:g}_{name}_ms": value for q, value in stats.percentiles.items()}
    return found


_RAMP = ("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps")


def details(records: Sequence[RequestRecord]) -> dict[str, Any]:
    """Every request of a run, in order; times in seconds."""
    first = min((record.sent for record in records), default=0.0)
    return {
        "input_lens": [record.prompt_tokens for record in records],
        "output_lens": [record.output_tokens if record.ok else 0 for record in records],
        "ttfts": [record.ttft if record.ticks else 0.0 for record in records],
        "itls": [record.gaps for record in records],
        "start_times": [record.sent - first for record in records],
        "generated_texts": [record.text for record in records],
        "errors": [record.error or "" for record in records],
    }
