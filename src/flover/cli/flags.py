"""Makes command-line flags from the fields of configurations, which have name, help, group and choices.

Only flags that were given enter the namespace, so defaults come from the configuration. Fields ending in `_bytes` are
parsed as numbers of bytes, `max_...` as counts with units.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from flover.cli.parser import shorten
from flover.config import flag_name

GROUPS = {
    "model": "model",
    "scheduler": "scheduler",
    "cache": "keys and values",
    "lora": "LoRA adapters",
    "device": "device",
    "cpu": "CPU",
    "parallel": "several processes",
    "server": "server",
    "limits": "limits of connections and requests",
}
_COUNT_UNITS = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30}
_BYTE_UNITS = {f"{unit}{end}": size for unit, size in _COUNT_UNITS.items() for end in ("", "B")} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
Config = TypeVar("Config")


def parse_size(text: str, units: dict[str, int]) -> int:
    """A whole number with an optional unit; `units` maps units to factors. Raises `ValueError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in units:
        raise ValueError(text)
    size = float(match[1]) * units[match[2]] if "." in match[1] else int(match[1]) * units[match[2]]
    if size != int(size):
        raise ValueError(text)
    return int(size)


def count(text: str) -> int:
    """A count: 2048, 32k (32,000), 32K (32,768), 1.5k."""
    try:
        return parse_size(text, _COUNT_UNITS)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a whole number such as 2048, 32k or 32K") from None


def num_bytes(text: str) -> int:
    """A number of bytes: 536870912, 512MiB, 2GiB, 2GB."""
    try:
        return parse_size(text, _BYTE_UNITS)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a size such as 512MiB, 2GiB or 1000000") from None


def whole(text: str) -> int:
    """A whole number without a unit."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a whole number") from None


def number(text: str) -> float:
    """A finite or infinite number, not NaN."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a number")
    return value


def add_settings(parser: argparse.ArgumentParser, config: type[Any], *, skip: frozenset[str] = frozenset()) -> None:
    """Add one flag for each setting of the dataclass `config`, in the groups of the fields."""
    hints = typing.get_type_hints(config)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for item in dataclasses.fields(config):
        if item.name in skip or "group" not in item.metadata:
            continue
        group = item.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(GROUPS.get(group, group))
        _add_setting(groups[group], item, _plain_type(hints[item.name]))


def given(args: argparse.Namespace, config: type[Config]) -> dict[str, Any]:
    """The fields of `config` that were set on the command line."""
    names = {item.name for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    return {name: value for name, value in vars(args).items() if name in names}


def from_args(args: argparse.Namespace, config: type[Config]) -> Config:
    """The configuration from the command line. Raises `ConfigError`."""
    return config(**given(args, config))


def to_flags(config: type[Any], values: dict[str, Any]) -> list[str]:
    """The command-line arguments that set these fields of `config`: the inverse of `given`."""
    flags: list[str] = []
    for item in dataclasses.fields(config):
        value = values.get(item.name)
        if value is None:
            continue
        name = flag_name(item.name)
        if isinstance(value, bool):
            flags.append(name if value else "--no-" + name.removeprefix("--"))
        elif isinstance(value, tuple):
            flags += [name, *map(str, value)]
        else:
            flags.append(f"{name}={value}")
    return flags


def _plain_type(hint: Any) -> Any:
    """`int` for `int | None`; everything else as it is."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = [item for item in typing.get_args(hint) if item is not type(None)]
    return hint


def _add_setting(group: argparse._ArgumentGroup, item: dataclasses.Field[Any], kind: Any) -> None:
    names = [flag_name(item.name)]
    if item.metadata.get("short"):
        names.insert(0, item.metadata["short"])
    options: dict[str, Any] = {"dest": item.name, "default": argparse.SUPPRESS, "help": _help(item, kind)}
    if kind is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **options)
        return
    if typing.get_origin(kind) is tuple:
        group.add_argument(*names, nargs="+", action=_TupleAction, metavar="NAME", **options)
        return
    if item.metadata["choices"]:
        choices = [choice for choice in item.metadata["choices"] if choice is not None]
        group.add_argument(*names, choices=choices, **options)
        return
    parse, metavar = _parser_of(item.name, kind)
    group.add_argument(*names, type=parse, metavar=metavar, **options)


def _parser_of(name: str, kind: Any) -> tuple[Callable[[str], Any], str]:
    if kind is int and name.endswith("_bytes"):
        return num_bytes, "SIZE"
    if kind is int:
        return (count if name.startswith("max_") else whole), "N"
    if kind is float:
        return number, "X"
    return str, "TEXT"


def _help(item: dataclasses.Field[Any], kind: Any) -> str:
    text = str(item.metadata["help"]).replace("%", "%%")
    if item.default is None or item.default == ():
        return text
    shown = (
        ("on" if item.default else "off") if kind is bool else f"{item.default:g}" if kind is float else item.default
    )
    return f"{text} (default: {shown})"


class _TupleAction(argparse.Action):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))
