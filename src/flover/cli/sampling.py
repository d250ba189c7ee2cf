"""Sampling parameters on the command line: names, defaults and limits are those of `SamplingParams`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import msgspec

from flover.cli.flags import count, number, whole
from flover.config import flag_name
from flover.errors import RequestError, shown
from flover.request import SamplingParams
from flover.structured_outputs import StructuredOutputsParams

FLAGS: dict[str, tuple[Any, str, str]] = {
    "max_tokens": (count, "N", "maximum number of tokens to generate"),
    "min_tokens": (count, "N", "minimum number of tokens to generate"),
    "temperature": (number, "X", "0 is greedy; higher is more random"),
    "top_p": (number, "X", "sample from the most likely tokens with this total probability"),
    "top_k": (whole, "N", "sample from this many of the most likely tokens; 0 is all"),
    "min_p": (number, "X", "sample from tokens with at least this probability, relative to the most likely one"),
    "repetition_penalty": (number, "X", "above 1 makes tokens of the prompt and output less likely"),
    "presence_penalty": (number, "X", "above 0 makes generated tokens less likely"),
    "frequency_penalty": (number, "X", "the same, for each time a token was generated"),
}
CHAT_DEFAULTS: Mapping[str, Any] = {"max_tokens": None, "temperature": 0.7}
"""What a conversation has instead of the defaults of `SamplingParams`."""


def add_sampling(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Add the flags; `defaults` override those of `SamplingParams`."""
    group = parser.add_argument_group("sampling")
    own = SamplingParams()
    for name, (kind, metavar, text) in FLAGS.items():
        default = defaults.get(name, getattr(own, name))
        shown = "as long as the context allows" if default is None else default
        group.add_argument(
            flag_name(name), type=kind, metavar=metavar, default=default, help=f"{text} (default: {shown})"
        )
    group.add_argument("--stop", action="append", metavar="TEXT", help="end at this text; may be given several times")
    group.add_argument("--ignore-eos", action="store_true", help="continue after the end-of-sequence token")


def add_structured_outputs(parser: argparse.ArgumentParser) -> None:
    """Add the flag that constrains the text."""
    parser.add_argument(
        "--structured-outputs",
        type=_constraint,
        metavar="JSON",
        help='what the text must be: {"json": SCHEMA}, {"regex": …}, {"choice": […]}, {"grammar": …} or '
        '{"json_object": true}',
    )


def _constraint(text: str) -> StructuredOutputsParams:
    try:
        return msgspec.json.decode(text, type=StructuredOutputsParams)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {shown(text)}") from None


def sampling_from(args: argparse.Namespace, **more: Any) -> SamplingParams:
    """The parameters from the command line. Raises `RequestError`."""
    values = {name: getattr(args, name) for name in FLAGS}
    return SamplingParams(**values, stop=args.stop, ignore_eos=args.ignore_eos, **more)


def changed(params: SamplingParams, name: str, text: str) -> SamplingParams:
    """The parameters with one value changed; `name` is the flag's name with or without dashes.

    Raises `RequestError` naming the wrong parameter or value.
    """
    field = name.removeprefix("--").replace("-", "_")
    if field not in FLAGS:
        raise RequestError(f"There is no parameter {name}; there are {', '.join(FLAGS)} and system.")
    try:
        value = FLAGS[field][0](text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise RequestError(f"{field}: {error}") from None
    return SamplingParams(**(msgspec.structs.asdict(params) | {field: value}))


def described(params: SamplingParams) -> str:
    """The parameters that flags set, a line for each."""
    return "\n".join(f"  {name} {getattr(params, name)}" for name in FLAGS)
