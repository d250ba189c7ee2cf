"""Runs `bench serve`: from options to metrics."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import uvloop

from flover.bench.serving.choose import ServeOptions
from flover.bench.serving.datasets import SampleRequest
from flover.bench.serving.figures import DEFINITIONS, Figures, make_figures
from flover.bench.serving.fit import chat_tokens, check_lengths, fit_lengths
from flover.bench.serving.options import pairs
from flover.bench.serving.prepare import draw_samples, load_tokenizer
from flover.bench.serving.report import Setup
from flover.bench.serving.run import Ended, ServingRun, ServingWorkload, find_max_model_len, serve_all
from flover.bench.serving.traffic import arrivals
from flover.text.tokenizer import Tokenizer

WARM_UP_SEED = 10**9
"""Added to the seed for warm-up prompts, so that the measured ones are not in the prefix cache."""
SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """A run, its metrics and its setup."""

    served: ServingRun
    figures: Figures
    setup: Setup


def measure_serving(
    options: ServeOptions, samples: list[SampleRequest] | None = None, ended: Ended | None = None
) -> Measured:
    """Run the benchmark on `samples`, by default those of the options. Raises `EngineError` if the server is unusable,
    `ConfigError` if a request cannot be sent."""
    data, traffic = options.data, options.traffic
    tokenizer = load_tokenizer(data.tokenizer)
    if samples is None:
        samples = draw_samples(data, options.dataset, tokenizer)
    others = _others(options, samples, tokenizer)
    work = ServingWorkload(
        samples=samples,
        times=_times(options, samples),
        warmups=list(islice(cycle(others), traffic.num_warmups)),
        probe=others[0],
        fields=_fields(options),
        tokenizer=tokenizer,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        served = runner.run(serve_all(options.target, traffic, work, ended))
    results = options.results
    setup = Setup(
        date=datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
        backend=options.target.backend,
        label=results.label,
        model_id=served.model,
        tokenizer_id=data.tokenizer,
        num_prompts=len(samples),
        traffic=traffic,
        metrics=results.metrics,
        limits=results.limits,
        metadata=pairs("--metadata", results.metadata),
    )
    return Measured(served, make_figures(served.records, results.limits, results.percentiles), setup)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Options and samples that fit the model's context, and a note on changed lengths, if any."""

    options: ServeOptions
    samples: list[SampleRequest]
    note: str | None


def prepare(options: ServeOptions) -> Prepared:
    """Ask the server for its context length, and draw samples that fit.

    Raises `ConfigError` if the requested lengths do not fit, `EngineError` if the server names no model.
    """
    tokenizer = load_tokenizer(options.data.tokenizer)
    samples = draw_samples(options.data, options.dataset, tokenizer)  # a wrong file is seen before a missing server
    reserved = chat_tokens(samples, tokenizer) if options.target.is_chat else 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        most = runner.run(find_max_model_len(options.target, options.traffic.ready_check_timeout_sec))
    dataset, note = fit_lengths(options.dataset, most, options.asked, reserved)
    if note is not None:
        options = dataclasses.replace(options, dataset=dataset)
        samples = draw_samples(options.data, dataset, tokenizer)
    check_lengths(samples, most, reserved)
    return Prepared(options, samples, note)


def first_error(served: ServingRun) -> str:
    """The error of the first failed request; "" if none failed."""
    return next((str(record.error) for record in served.records if not record.ok), "")


def _times(options: ServeOptions, samples: list[SampleRequest]) -> list[float]:
    if options.data.keeps_time:
        return [sample.at or 0.0 for sample in samples]
    return arrivals(options.traffic, len(samples), options.data.seed)


def _others(options: ServeOptions, samples: list[SampleRequest], tokenizer: Tokenizer | None) -> list[SampleRequest]:
    """Samples for warm-up: other generated prompts of the same kind, or those of the file."""
    data, traffic = options.data, options.traffic
    if data.is_made and (traffic.num_warmups or traffic.ready_check_timeout_sec):
        return draw_samples(data, options.dataset, tokenizer, data.seed + WARM_UP_SEED)
    return samples


def _fields(options: ServeOptions) -> dict[str, Any]:
    ignore_eos = options.sampling.ignore_eos
    if ignore_eos is None:
        ignore_eos = options.data.is_made
    return ({"ignore_eos": True} if ignore_eos else {}) | options.sampling.fields()


def notes(measured: Measured, options: ServeOptions) -> list[str]:
    """Notes on the result: errors, counting, prefix cache, client time."""
    served, figures, data = measured.served, measured.figures, options.data
    found = [DEFINITIONS]
    errors = Counter(record.error for record in served.records if not record.ok)
    found += [f"{count} failed: {error}" for error, count in errors.most_common(SHOWN_ERRORS)]
    if served.counted:
        found.append(f"output tokens: {served.counted}")
    if figures.cached_tokens and data.dataset_name == "random":
        found.append(
            f"{figures.cached_tokens} prompt tokens came from the server's prefix cache: it has seen these prompts "
            "before; use another --seed"
        )
    if options.traffic.max_concurrency is not None and options.traffic.request_rate != float("inf"):
        found.append("latencies begin when a request is sent: what it waited for --max-concurrency is not in them")
    share = served.cpu_seconds / figures.duration if figures.duration else 0.0
    found.append(
        f"client: {served.cpu_seconds:.2f} s of processor time, {100 * share:.0f} % of one core, "
        f"{client_us_per_token(measured):.1f} us per output token"
    )
    return found


def client_us_per_token(measured: Measured) -> float:
    """Processor time of the client for one output token, in microseconds, its share of the request included."""
    return 1e6 * measured.served.cpu_seconds / max(1, measured.figures.output_tokens)
