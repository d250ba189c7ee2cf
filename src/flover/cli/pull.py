"""`flover pull`: downloads a model and prints where it is."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from flover.cli.flags import add_settings, from_args
from flover.cli.models import fetch_first
from flover.cli.parser import Parser
from flover.config import EngineConfig

HUB_SETTINGS = frozenset({"revision", "download_dir"})


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "pull",
        description="Download a model and print where it is. A download that was cut short goes on where it stopped. "
        "HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are those of huggingface_hub.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="ORG/REPO, ORG/REPO:Q4_K_M, ORG/REPO/FILE.gguf, or with @REVISION"
    )
    add_settings(parser, EngineConfig, skip=other_settings(HUB_SETTINGS))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Download, and print the path."""
    from flover.model.locate import locate_model

    config = fetch_first(from_args(args, EngineConfig))
    print(locate_model(config.model))
    return 0


def other_settings(names: frozenset[str]) -> frozenset[str]:
    """The settings of an engine but for `names`."""
    return frozenset(item.name for item in dataclasses.fields(EngineConfig)) - names
