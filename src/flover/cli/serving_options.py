"""The flags of serving benchmarks and their conversion to options."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from typing import Any

from flover.bench.serving.choose import DATASETS, Data, ServeOptions, choose_dataset
from flover.bench.serving.options import ResultOptions, Sampling, ServerOptions, Traffic
from flover.cli.flags import add_settings, from_args
from flover.config import read_environment

SECRET = ("--api-key", "--header")
"""Flags whose values are left out of results."""


def add_serve_flags(parser: argparse.ArgumentParser, *, skip: frozenset[str] = frozenset()) -> None:
    """All flags of `bench serve` that describe server, requests, traffic and results."""
    for options in (ServerOptions, Data, Traffic, Sampling, ResultOptions):
        add_settings(parser, options, skip=skip)
    add_dataset_flags(parser)


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of every data set."""
    for dataset in DATASETS.values():
        add_settings(parser, dataset)
    parser.add_argument(
        "--skip-chat-template",
        action="store_true",
        help="no effect: the server renders chats",
    )


def read_serve_options(args: argparse.Namespace) -> ServeOptions:
    """The options from the command line. Raises `ConfigError`."""
    target = from_args(args, ServerOptions)
    if target.api_key is None:
        target = dataclasses.replace(target, api_key=read_environment().api_key)
    data, own = from_args(args, Data), given_for_datasets(args)
    dataset = choose_dataset(data, own)  # puts the general lengths into `own`
    return ServeOptions(
        target=target,
        data=data,
        dataset=dataset,
        asked=frozenset(own),
        traffic=from_args(args, Traffic),
        sampling=from_args(args, Sampling),
        results=from_args(args, ResultOptions),
    )


def given_for_datasets(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of data sets that were set on the command line."""
    names = {item.name for dataset in DATASETS.values() for item in dataclasses.fields(dataset)}
    return {name: value for name, value in vars(args).items() if name in names}


def command() -> str:
    """The command line, without the values of secret flags."""
    arguments, shown, hide = sys.argv[1:], ["flover"], False
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        if flag.startswith("--"):
            hide = flag in SECRET
            shown.append(flag + "=..." if hide and equals else argument)
        else:
            shown.append("..." if hide else argument)
    return shlex.join(shown)
