"""`flover simulate`: the real scheduler in simulated time, to model other machines."""

from __future__ import annotations

import argparse
import functools
import random
from pathlib import Path
from typing import Any

from flover.cli.flags import add_settings, count, from_args, number
from flover.cli.models import add_model, resolve_model
from flover.cli.parser import Parser
from flover.cli.terminal import command_line, table_console
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover_benchmarks.commands.paper import PIPE_WIDTH, add_experiment_flags, output, sized, status

COSTS = {"gpt-j-a100": "1:11.3,6:13.0,29:22.0"}
"""Named costs: GPT-J 6B on one A100, read off the Flover paper (E3)."""
EXPERIMENTS = ("E1", "E2", "E3", "E4", "E5", "E6")
ROUTERS = ("least-requests", "two-choices", "round-robin")
OUTPUT = Path("flover-simulated")
_COST_HELP = (
    f"milliseconds of an iteration: one of {', '.join(COSTS)}; or A,B or A,B,C for A + B per token + C per token of "
    "context; or points TOKENS:MS,TOKENS:MS,…"
)


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "simulate",
        description="Run the real scheduler, rows and pages with a cost model instead of a device.",
    )
    kinds = parser.with_commands("SIMULATION", "simulations")
    paper = kinds.add_parser("paper", help="the experiments of the Flover paper, at its size")
    add_experiment_flags(paper, OUTPUT)
    _add_cost(paper, "gpt-j-a100")
    paper.set_defaults(run=_run_paper)
    fleet = kinds.add_parser("fleet", help="replicas behind a router, Poisson arrivals")
    _add_cost(fleet, "gpt-j-a100")
    group = fleet.add_argument_group("fleet")
    group.add_argument("--replicas", type=count, default=1000, metavar="N", help="default: %(default)s")
    group.add_argument("--router", choices=ROUTERS, default=ROUTERS[0], help="default: %(default)s")
    group.add_argument("--request-rate", type=number, default=1000.0, metavar="R", help="per second (default: 1000)")
    group.add_argument("--num-prompts", type=count, default=10_000, metavar="N", help="requests (default: 10000)")
    group.add_argument("--input-len", type=count, default=128, metavar="N", help="default: %(default)s")
    group.add_argument("--output-len", type=count, default=128, metavar="N", help="mean (default: %(default)s)")
    group.add_argument("--max-num-seqs", type=count, default=64, metavar="N", help="rows of a replica (default: 64)")
    group.add_argument("--seed", type=count, default=0, metavar="N")
    fleet.set_defaults(run=_run_fleet)
    check = kinds.add_parser(
        "check", help="fit the cost of this machine, and compare simulated with measured times to tokens"
    )
    add_model(check)
    group = check.add_argument_group("workload")
    group.add_argument("--num-requests", type=count, default=32, metavar="N", help="default: %(default)s")
    group.add_argument("--prompt-len", type=count, default=64, metavar="N", help="default: %(default)s")
    group.add_argument("--output-len", type=count, default=64, metavar="N", help="default: %(default)s")
    add_settings(check, EngineConfig, skip=frozenset({"model"}))
    check.set_defaults(run=_run_check)
    return parser


def _add_cost(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--cost", default=default, metavar="COST", help=f"{_COST_HELP} (default: %(default)s)")


def parse_cost(text: str) -> Any:
    """The cost model of --cost. Raises `ConfigError`."""
    from flover_benchmarks.simulated.cost import Cost, line

    text = COSTS.get(text, text)
    try:
        if ":" in text:
            pairs = [part.split(":") for part in text.split(",")]
            return Cost(tuple((int(tokens), float(ms)) for tokens, ms in pairs))
        return line(*(float(part) for part in text.split(",")))
    except (ValueError, TypeError):
        raise ConfigError(f"--cost must be {_COST_HELP}; got {text!r}") from None


def _run_paper(args: argparse.Namespace) -> int:
    from flover_benchmarks.paper.bench import Bench
    from flover_benchmarks.paper.experiments import PAPER, run_experiments
    from flover_benchmarks.simulated.runner import SimulatedRunner

    scale, cost = sized(PAPER, args), parse_cost(args.cost)
    names = args.experiments or EXPERIMENTS
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(f"--experiments {name} needs a real machine; simulated are {', '.join(EXPERIMENTS)}")
    with output(args, "simulate paper", scale) as show, status() as progress:
        bench = Bench(SimulatedRunner(cost), scale, progress, args.cost, seed=args.workload_seed)
        run_experiments(bench, names, functools.partial(show, args.cost))
    return 0


def _run_fleet(args: argparse.Namespace) -> int:
    from flover.bench.report import json_line
    from flover_benchmarks.paper.report import rich_table
    from flover_benchmarks.simulated import fleets
    from flover_benchmarks.simulated.fleet import least_requests, round_robin, two_choices

    routers = {"least-requests": least_requests, "round-robin": round_robin(), "two-choices": two_choices(args.seed)}
    if not args.request_rate > 0 or args.request_rate == float("inf"):
        raise ConfigError(f"--request-rate must be a finite number above 0, got {args.request_rate:g}")
    for name in ("replicas", "num_prompts", "input_len", "output_len", "max_num_seqs"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    load = fleets.FleetLoad(args.num_prompts, args.request_rate, args.input_len, args.output_len)
    with status() as progress:
        result = fleets.run(
            parse_cost(args.cost),
            args.replicas,
            routers[args.router],
            load,
            args.max_num_seqs,
            random.Random(args.seed),
            lambda done, total: progress(f"{done:,} of {total:,} requests"),
        )
    table_console(PIPE_WIDTH).print(rich_table(f"{args.replicas:,} replicas, {args.router}", result.table))
    options = {"cost": args.cost, "replicas": args.replicas, "router": args.router}
    print(json_line("simulate fleet", command_line(), options=options, **result.facts))
    return 0


def _run_check(args: argparse.Namespace) -> int:
    from flover.bench.report import json_line
    from flover_benchmarks.paper.report import rich_table
    from flover_benchmarks.simulated.check import check

    resolve_model(args)
    config = from_args(args, EngineConfig)
    for name in ("num_requests", "prompt_len", "output_len"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    with status() as progress:
        result = check(config, args.num_requests, args.prompt_len, args.output_len, progress)
    table_console(PIPE_WIDTH).print(rich_table(config.model, result.table))
    print(json_line("simulate check", command_line(), model=config.model, **result.facts))
    return 0
