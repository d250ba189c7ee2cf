"""`flover show`: what a model is and whether it fits; of a repository of several GGUF files, what there is."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from flover.cli.flags import add_settings, from_args
from flover.cli.models import add_model, resolve_model
from flover.cli.parser import Parser
from flover.config import EngineConfig

if TYPE_CHECKING:
    from flover.hub.offers import Offer


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "show",
        description="Show what a model is and whether it fits this machine, as flover doctor finds it. Of a repository "
        "of several GGUF files, show which there are. Loads no weights and downloads none.",
    )
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of a table")
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the findings; 0 if the model fits or there are several, 1 if it does not fit."""
    from flover.cli.fits import find_device_fit
    from flover.executor.detect import local_platforms, resolve_device
    from flover.hub.offers import find_offers
    from flover.model.locate import hub_name

    resolve_model(args)
    config = resolve_device(from_args(args, EngineConfig))
    devices = local_platforms(config)
    machine = devices[0].machine()
    name = hub_name(config.model, config.revision)
    offers = [] if name is None or name.is_gguf else find_offers(name, config.download_dir)
    if len(offers) > 1:
        _print_offers(config.model, offers, machine.available_bytes, as_json=args.json)
        return 0
    if offers:
        config = dataclasses.replace(config, model=offers[0].name, revision=None)
    fit = find_device_fit(config, devices)
    if args.json:
        print(json.dumps({"model": config.model, "fits": fit.fits, "verdict": fit.verdict, **fit.facts}))
        return 0 if fit.fits else 1
    _print_lines(config.model, fit.facts)
    print(f"\n{fit.verdict}")
    return 0 if fit.fits else 1


def _print_offers(model: str, offers: list[Offer], available_bytes: int, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"model": model, "files": [dataclasses.asdict(offer) for offer in offers]}))
        return
    facts = {}
    for offer in offers:
        state = "on this machine" if offer.is_here else "not downloaded"
        room = "" if offer.num_bytes <= available_bytes else f"; more than the {available_bytes / 1e9:.1f} GB available"
        facts[offer.name] = f"{offer.num_bytes / 1e6:>9,.0f} MB, {state}{room}"
    _print_lines(f"{model} has {len(offers)} GGUF models", facts)


def _print_lines(title: str, facts: dict[str, str]) -> None:
    print(title)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"  {name:{width}}  {value}")
