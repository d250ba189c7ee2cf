"""`flover doctor`: the machine, the versions, and whether a model fits. Loads no weights."""

from __future__ import annotations

import argparse
import platform
from typing import Any

from flover.cli.flags import add_settings, from_args
from flover.cli.interrupt import native_imports
from flover.cli.models import add_model, resolve_model
from flover.config import EngineConfig, ServerConfig

PACKAGES = (
    "flover",
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "huggingface-hub",
    "msgspec",
    "starlette",
    "uvicorn",
    "jinja2",
    "aiohttp",
)


def add(commands: Any) -> argparse.ArgumentParser:
    """The command's part of the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="this machine, the versions, and whether a model fits",
        description="Show the machine and the versions, and whether a model fits and how fast it can be.",
    )
    add_model(parser)
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the findings; 0 if the model fits, 1 if it does not."""
    from rich.console import Console

    from flover.bench.machine import cpu_facts, memory_facts, package_version
    from flover.cli.fits import find_device_fit, gib

    with native_imports():
        from flover.executor.detect import local_platforms, resolve_device
        from flover.ops.cpu import instruction_sets

    resolve_model(args)
    config = resolve_device(from_args(args, EngineConfig))
    devices = local_platforms(config)
    console = Console(highlight=False, soft_wrap=True)
    cpu, memory = cpu_facts(), memory_facts()
    usable = cpu["usable"]
    _section(
        console,
        "Machine",
        {
            "processor": cpu["model"],
            "cores": f"{cpu['cores']}, this process may use {len(usable)} ({ranges(usable)})",
            "instructions": " ".join(cpu["flags"]) or "none of those that Flover looks for",
            "kernels": ", ".join(instruction_sets()) + " (the first is used unless --cpu-isa says otherwise)",
            "memory": f"{gib(memory['total'])}, {gib(memory['available'])} available",
            **_devices([device.description for device in devices]),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
    )
    versions = {name: package_version(name) or "not installed" for name in PACKAGES}
    _section(console, "Versions", {"python": platform.python_version(), **versions})
    fit = find_device_fit(config, devices)
    _section(console, f"Model {config.model}", fit.facts)
    console.print(fit.verdict, style="green" if fit.fits else "red")
    default = ServerConfig()
    console.print(f"\nServe it with: flover serve (listens on {default.host}:{default.port})" if fit.fits else "")
    return 0 if fit.fits else 1


def _devices(descriptions: list[str]) -> dict[str, str]:
    names = (f"device {rank}" if len(descriptions) > 1 else "device" for rank in range(len(descriptions)))
    return dict(zip(names, descriptions, strict=True))


def _section(console: Any, title: str, facts: dict[str, str]) -> None:
    console.print(title, style="bold")
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"  {name:{width}}  {value}", markup=False)
    console.print()


def ranges(numbers: list[int]) -> str:
    """0-3,8 for [0, 1, 2, 3, 8]."""
    parts: list[str] = []
    for index, number in enumerate(numbers):
        if index == 0 or number != numbers[index - 1] + 1:
            parts.append(str(number))
        elif index == len(numbers) - 1 or numbers[index + 1] != number + 1:
            parts[-1] += f"-{number}"
    return ",".join(parts)
