"""`flover demo`: serves 32 requests fused, then the same 32 one after another."""

from __future__ import annotations

import argparse
from typing import Any

from flover.cli.flags import add_settings, count, given, number, to_flags, whole
from flover.cli.models import add_model, resolve_model
from flover.config import EngineConfig
from flover.errors import ConfigError


def add(commands: Any) -> argparse.ArgumentParser:
    """The command's part of the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        description="Start a server, send streaming requests with random arrivals, show them live, then send the "
        "same ones one after another and compare.",
    )
    add_model(parser)
    group = parser.add_argument_group("demo")
    group.add_argument("--num-requests", type=count, default=32, metavar="N", help="requests (default: %(default)s)")
    group.add_argument(
        "--rate", type=number, default=24.0, metavar="X", help="arrivals per second (default: %(default)s)"
    )
    group.add_argument(
        "--demo-seed", type=whole, default=1, metavar="N", help="seed of prompts, lengths, arrivals and sampling"
    )
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run both parts and print the comparison."""
    if args.num_requests < 1:
        raise ConfigError(f"--num-requests must be at least 1, got {args.num_requests}")
    if not 0 < args.rate < float("inf"):
        raise ConfigError(f"--rate must be a finite number above 0, got {args.rate:g}")
    resolve_model(args)
    from flover.cli.performance import perform

    perform(to_flags(EngineConfig, given(args, EngineConfig)), args.num_requests, args.rate, args.demo_seed)
    return 0
