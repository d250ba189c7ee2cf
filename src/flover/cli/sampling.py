"""Sampling parameters on the command line: names, defaults, limits and help are those of the table of parameters."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import msgspec

from flover.cli.flags import count, number, whole
from flover.config import flag_name
from flover.errors import RequestError, shown
from flover.request import SamplingParams
from flover.sampling_checks import PARAMETERS, Range
from flover.structured_outputs import StructuredOutputsParams


def _reader(allowed: Range) -> Callable[[str], Any]:
    """How a flag's value is read."""
    if not allowed.integer:
        return number
    return whole if allowed.low < 0 else count


FLAGS = {name: _reader(known.range) for name, known in PARAMETERS.items() if known.help}
"""Parameters that have a flag, and how its value is read."""


def add_sampling(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Add the flags; `defaults` override those of `SamplingParams`."""
    group = parser.add_argument_group("sampling")
    own = SamplingParams()
    for name, kind in FLAGS.items():
        default = defaults.get(name, getattr(own, name))
        shown = "as long as the context allows" if default is None else default
        group.add_argument(
            flag_name(name),
            type=kind,
            metavar="X" if kind is number else "N",
            default=default,
            help=f"{PARAMETERS[name].help} (default: {shown})",
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
        value = FLAGS[field](text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise RequestError(f"{field}: {error}") from None
    return SamplingParams(**(msgspec.structs.asdict(params) | {field: value}))


def described(params: SamplingParams) -> str:
    """The parameters that flags set, a line for each."""
    return "\n".join(f"  {name} {getattr(params, name)}" for name in FLAGS)
