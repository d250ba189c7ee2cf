"""`flover bench serve`: a benchmark of any OpenAI-compatible server, with vLLM's flags and metrics."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from flover.cli.files import check_output_dir
from flover.cli.flags import number
from flover.cli.serving_options import add_serve_flags, command, read_serve_options
from flover.errors import ConfigError, EngineError
from flover.progress import counting_bar


def add_serve(kinds: Any) -> None:
    """The parser of `flover bench serve`."""
    serve = kinds.add_parser(
        "serve",
        help="throughput and latency of any OpenAI-compatible server",
        description="Send requests to a running server, and report throughput and latency under vLLM's names.",
    )
    add_serve_flags(serve)
    group = serve.add_argument_group("overhead of the client")
    group.add_argument(
        "--null-server",
        action="store_true",
        help="measure the client's cost per token against a server that answers at once",
    )
    group.add_argument(
        "--null-gap-ms", type=number, default=0.0, metavar="X", help="time between tokens of that server (default: 0)"
    )
    serve.set_defaults(run=_run_serve)


def _run_serve(args: argparse.Namespace) -> int:
    from flover.bench.report import json_line
    from flover.bench.serving.benchmark import client_us_per_token, first_error, notes
    from flover.bench.serving.files import result_path, save
    from flover.bench.serving.plots import need_matplotlib, plot_timeline
    from flover.bench.serving.report import block, details, result

    options = read_serve_options(args)
    results = options.results
    if results.plot_timeline:
        need_matplotlib("--plot-timeline")
    if results.saves or results.plot_timeline:
        check_output_dir("--result-dir", results.result_dir)
    measured = _measure(args, options)
    figures, setup, records = measured.figures, measured.setup, measured.served.records
    if not figures.completed:
        raise EngineError(f"all {figures.failed} requests failed; the first: {first_error(measured.served)}")
    for line in block(figures, setup):
        print(line)
    for line in notes(measured, options):
        print(line)
    found = result(figures, setup)
    found |= {"client_cpu_s": measured.served.cpu_seconds, "client_us_per_token": client_us_per_token(measured)}
    path = result_path(results, setup) if results.saves or results.plot_timeline else Path()
    if results.saves:
        save(path, found | (details(records) if results.save_detailed else {}), append=results.append_result)
        print(f"{path} written")
    if results.plot_timeline:
        picture = path.with_suffix(".timeline.png")
        plot_timeline(records, picture, f"{setup.model_id}: {figures.completed} requests")
        print(f"{picture} written")
    print(json_line("serve", command(), **found))
    return 0


def _measure(args: argparse.Namespace, options: Any) -> Any:
    """Run against the given server or the null server."""
    from flover.bench.serving.benchmark import measure_serving, prepare
    from flover.bench.serving.null_server import null_server

    if args.null_gap_ms and not args.null_server:
        raise ConfigError("--null-gap-ms needs --null-server")
    if args.null_gap_ms < 0:
        raise ConfigError(f"--null-gap-ms must be at least 0, got {args.null_gap_ms:g}")
    with null_server(args.null_gap_ms) if args.null_server else contextlib.nullcontext() as server:
        if server is not None:
            options = dataclasses.replace(options, target=dataclasses.replace(options.target, base_url=server.url))
        prepared = prepare(options)
        if prepared.note is not None:
            print(prepared.note)
        with counting_bar("requests", len(prepared.samples), shown=not options.results.disable_tqdm) as ended:
            return measure_serving(prepared.options, prepared.samples, ended)
