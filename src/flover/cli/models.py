"""The model argument of a command: MODEL or --model."""

from __future__ import annotations

import argparse

from flover.config import BUNDLED_MODEL
from flover.errors import ConfigError


def add_model(parser: argparse.ArgumentParser, default: str = f"the bundled {BUNDLED_MODEL}") -> None:
    """Add `[MODEL]` and `--model MODEL`."""
    parser.add_argument(
        "model_argument",
        nargs="?",
        metavar="MODEL",
        help=f"Hugging Face directory, GGUF file or hub name (default: {default})",
    )
    parser.add_argument("--model", default=argparse.SUPPRESS, metavar="MODEL", help="the same as MODEL")


def resolve_model(args: argparse.Namespace) -> None:
    """Set `args.model` from MODEL or --model; leave it unset if neither is given.

    Raises `ConfigError` if they differ or are empty.
    """
    named = args.model_argument
    for name, value in (("MODEL", named), ("--model", getattr(args, "model", None))):
        if value is not None and not value.strip():
            raise ConfigError(f"{name} is empty: it is a directory or a hub name")
    if named is None:
        return
    if getattr(args, "model", named) != named:
        raise ConfigError(f"the model is named twice: MODEL is {named!r} and --model is {args.model!r}")
    args.model = named
