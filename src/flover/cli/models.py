"""The model argument of a command, MODEL or --model, and the download of a hub's model before it is used."""

from __future__ import annotations

import argparse
import dataclasses

from flover.config import BUNDLED_MODEL, EngineConfig
from flover.config.speculative import draft_model_of, with_model
from flover.errors import ConfigError


def add_model(parser: argparse.ArgumentParser, default: str = f"the bundled {BUNDLED_MODEL}") -> None:
    """Add `[MODEL]` and `--model MODEL`."""
    parser.add_argument(
        "model_argument",
        nargs="?",
        metavar="MODEL",
        help=f"Hugging Face directory, GGUF file, or hub name (ORG/REPO, ORG/REPO:Q4_K_M) (default: {default})",
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


def fetch_first(config: EngineConfig) -> EngineConfig:
    """`config` with a hub's model, and a hub's draft model, replaced by their places on this machine, fetched before
    anything starts: the hub is asked once, and what is started again later has the same files.

    With Ray the name stays, for other machines. Raises `ModelError`.
    """
    if config.distributed_executor_backend == "ray":
        return config
    path = _fetch(config, config.model, config.revision)
    if path is not None:
        tokenizer = None if config.tokenizer == config.model else config.tokenizer
        config = dataclasses.replace(config, model=path, tokenizer=tokenizer, revision=None)
    draft = draft_model_of(config.speculative_config)
    path = None if draft is None else _fetch(config, draft, None)
    if path is not None and config.speculative_config is not None:
        config = dataclasses.replace(config, speculative_config=with_model(config.speculative_config, path))
    return config


def _fetch(config: EngineConfig, name: str, revision: str | None) -> str | None:
    """Where the model of this name is, if it is a hub's."""
    from flover.model.locate import hub_name, locate_model

    if hub_name(name, revision) is None:
        return None
    from flover.progress import download_bar

    with download_bar(name) as progress:
        weights = config.load_format != "dummy"
        return str(locate_model(name, revision, config.download_dir, weights=weights, progress=progress))
