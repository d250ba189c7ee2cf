"""`flover bench sweep`: request rates over a grid of server and client settings, one table, the goodput knee."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flover.bench.serving.choose import ServeOptions
from flover.bench.serving.offline_options import SweepOptions
from flover.cli.files import check_output_dir
from flover.cli.flags import add_settings, from_args
from flover.cli.parser import Parser
from flover.cli.serving_options import add_serve_flags, command, read_serve_options
from flover.errors import ConfigError, EngineError
from flover.progress import counting_bar

DEFAULT_LIMITS = ("ttft:1000", "tpot:200")
_SEEDS = 1009
"""Distance of the seeds of two points, so that their prompts share no prefix."""
_SKIPPED = frozenset(
    {
        *("request_rate", "ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps", "self_timed", "plot_timeline"),
        *("save_result", "save_detailed", "append_result", "result_dir", "result_filename"),
    }
)
"""Flags of `bench serve` that the sweep sets."""


def add_sweep(kinds: Any) -> None:
    """The parser of `flover bench sweep`."""
    parser = kinds.add_parser(
        "sweep",
        help="throughput, latency and the goodput knee over request rates and a grid of settings",
        description="Run bench serve at several rates, for each setting of server and client.",
    )
    add_settings(parser, SweepOptions)
    add_serve_flags(parser, skip=_SKIPPED)
    parser.set_defaults(run=_run_sweep)


def _run_sweep(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.report import json_line
    from flover.bench.serving.plots import need_matplotlib
    from flover.bench.serving.sweep_report import knee_facts, knee_lines, plot_sweep, sweep_table

    options = from_args(args, SweepOptions)
    if options.output_dir is not None:
        need_matplotlib("--output-dir")
        check_output_dir("--output-dir", options.output_dir)
    if not getattr(args, "goodput", ()):
        args.goodput = DEFAULT_LIMITS
    points, results = _measure(args, options)
    limits = " ".join(args.goodput)
    Console(highlight=False).print(
        sweep_table(f"p99 TTFT and TPOT; good is {limits}, in ms", points, options.attainment)
    )
    for line in knee_lines(points, options.attainment):
        print(line)
    if options.output_dir is None:
        print("no plot: set --output-dir")
    else:
        path = Path(options.output_dir) / "sweep.png"
        plot_sweep(points, options.attainment, limits, path)
        print(f"{path} written")
    facts = {"knees": knee_facts(points, options.attainment), "points": results}
    print(json_line("sweep", command(), options=dataclasses.asdict(options), goodput_limits=limits, **facts))
    return 0


def _measure(args: argparse.Namespace, options: SweepOptions) -> tuple[list[Any], list[dict[str, Any]]]:
    """Every point of the grid, and its result in the format of `bench serve`."""
    from flover.bench.serving.benchmark import first_error, measure_serving, prepare
    from flover.bench.serving.files import save
    from flover.bench.serving.report import result
    from flover.bench.serving.sweep import Point, read_params

    servers = read_params("--serve-params", options.serve_params)
    clients = {
        name: _client(args, params) for name, params in read_params("--bench-params", options.bench_params).items()
    }
    if options.output_dir is not None:
        Path(options.output_dir).mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    results, notes, error = [], list[str](), ""
    with counting_bar("runs", len(servers) * len(clients) * len(options.rates)) as ended:
        for server, params in servers.items():
            with _server(options, params) as url:
                for client, base in clients.items():
                    for rate in options.rates:
                        asked = _at(base, url, rate, len(points))
                        prepared = prepare(asked)
                        if prepared.note is not None and prepared.note not in notes:
                            notes.append(prepared.note)
                            print(prepared.note)
                        measured = measure_serving(prepared.options, prepared.samples)
                        error = error or first_error(measured.served)
                        points.append(Point(server, client, rate, measured.figures))
                        results.append({"server": server, "client": client, **result(measured.figures, measured.setup)})
                        if options.output_dir is not None:
                            save(Path(options.output_dir) / "results.jsonl", results[-1], append=len(points) > 1)
                        ended()
    if not any(point.figures.completed for point in points):
        raise EngineError(f"all requests of all {len(points)} runs failed; the first: {error}")
    if error:
        print(f"first of the requests that failed: {error}")
    return points, results


def _client(args: argparse.Namespace, params: Any) -> ServeOptions:
    """The client's options overridden by one setting. Raises `ConfigError` for an unknown flag."""
    from flover.bench.serving.sweep import to_arguments

    parser = _Overrides(prog="--bench-params", add_help=False)
    add_serve_flags(parser, skip=_SKIPPED)
    options = read_serve_options(parser.parse_args(to_arguments(params), copy.copy(args)))
    if options.data.keeps_time:
        raise ConfigError("a trace has its own times, and a sweep varies rates: use another --dataset-name")
    return options


class _Overrides(Parser):
    """A parser whose errors are `ConfigError`s."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{self.prog}: {message}")


def _at(options: ServeOptions, url: str | None, rate: float, place: int) -> ServeOptions:
    """The options of one point."""
    target = options.target if url is None else dataclasses.replace(options.target, base_url=url)
    traffic = dataclasses.replace(options.traffic, request_rate=rate)
    data = dataclasses.replace(options.data, seed=options.data.seed + _SEEDS * place)
    percentiles = ",".join(dict.fromkeys([*options.results.metric_percentiles.split(","), "99"]))
    results = dataclasses.replace(options.results, metric_percentiles=percentiles)
    return dataclasses.replace(options, target=target, traffic=traffic, data=data, results=results)


@contextmanager
def _server(options: SweepOptions, params: Any) -> Iterator[str | None]:
    """The address of a server started with one setting; None if a running server is used."""
    from flover.bench.server import ServerProcess
    from flover.bench.serving.sweep import to_arguments

    if options.serve_cmd is None:
        yield None
        return
    command = shlex.split(options.serve_cmd)
    if command[:2] != ["flover", "serve"]:
        raise ConfigError(
            f"--serve-cmd must begin with 'flover serve', got {options.serve_cmd!r}; start other servers "
            "yourself and name them with --base-url"
        )
    with ServerProcess([*command[2:], *to_arguments(params)]) as server:
        yield server.url
