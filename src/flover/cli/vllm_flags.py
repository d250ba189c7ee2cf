"""Flags of vLLM that Flover does not have: accepted with a note if without effect, else refused with the reason."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from flover.cli.parser import Parser
from flover.config import flag_name
from flover.config.vllm import VLLM_SETTINGS, VllmSetting
from flover.errors import ConfigError


def add_vllm_flags(parser: Parser) -> None:
    """Add every flag of vLLM's table that the parser lacks; call it after all others. `--help` hides them."""
    for name, setting in VLLM_SETTINGS.items():
        flags = [flag_name(name)] + ([flag_name("no_" + name)] if setting.switch else [])
        options: dict[str, Any] = {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS, "dest": f"vllm_{name}"}
        if flags[0] in parser.flags:
            continue
        if setting.switch:
            nargs: int | str | None = 0
        else:
            nargs = "*" if setting.accepts == (None,) else None  # refused whatever values follow
        parser.add_argument(*flags, action=_VllmAction, nargs=nargs, type=_plain, setting=setting, **options)


class _VllmAction(argparse.Action):
    def __init__(self, *, setting: VllmSetting, **options: Any) -> None:
        super().__init__(**options)
        self._setting = setting

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        flag = str(option)
        on = not flag.startswith("--no-")
        try:
            self._setting.check(flag, on if self._setting.switch else values)
        except ConfigError as error:
            parser.error(str(error))
        if self._setting.same_as is not None:
            name, value = self._setting.same_as
            setattr(namespace, name, value == on)
            return
        print(f"{parser.prog}: {flag} changes nothing: {self._setting.why}", file=sys.stderr)


def _plain(text: str) -> int | float | str:
    """The text as a number if it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
