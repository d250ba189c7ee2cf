"""`flover selftest`: checks batch invariance on this machine, with this model."""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from flover.cli.flags import add_settings, from_args, given
from flover.cli.interrupt import native_imports
from flover.cli.models import add_model, resolve_model
from flover.cli.parser import Parser
from flover.cli.terminal import command_line
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.progress import counting_bar
from flover.selftest.matrix import FORMATS, ON_GPU, Space, all_cells, few_cells

if TYPE_CHECKING:
    from rich.console import Console

    from flover.selftest.invariance import Finding

_OWN = frozenset(
    {
        *("model", "tokenizer", "skip_tokenizer_init", "seed", "max_num_batched_tokens"),
        *("target_itl_ms", "scheduling_policy", "reorder", "enable_prefix_caching", "trace", "async_scheduling"),
        "speculative_config",
    }
)
"""Settings without meaning for this test, or set by it."""
_SHOWN = 10
"""Number of differences to print; the JSON line has them all."""


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser("selftest", description="Check the engine on this machine.")
    kinds = parser.with_commands("TEST", "tests")
    invariance = kinds.add_parser(
        "invariance",
        help="the same bits alone and with any batch, chunks, pages, preemption, threads, ranks, instruction set",
        description="Run requests alone and then under every combination of a matrix, and compare tokens and "
        "log-probabilities bit for bit. Exit code 0 if all are equal, 1 if not. --cpu-isa, --num-threads, "
        "--block-size, --tensor-parallel-size and --max-num-seqs narrow the matrix to that value. On a GPU it runs "
        "without --batch-invariant and with it, and only what holds with it counts.",
    )
    add_model(invariance)
    group = invariance.add_argument_group("matrix")
    group.add_argument(
        "--full",
        action="store_true",
        help="test every cell; by default every value alone and every pair of values, in about fifty cells",
    )
    group.add_argument(
        "--formats",
        nargs="+",
        choices=("all", *FORMATS),
        metavar="FORMAT",
        help=f"types of weights, keys and values to run one after another: all, or some of {', '.join(FORMATS)} "
        "(default: what --dtype, --quantization and --kv-cache-dtype say)",
    )
    add_settings(invariance, EngineConfig, skip=_OWN)
    invariance.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the matrix, print it and one JSON line; 0 if all cells are equal, 1 if not."""
    from rich.console import Console

    with native_imports():
        from flover.executor.detect import resolve_device
        from flover.ops.cpu import instruction_sets
        from flover.selftest.invariance import restricted, without_ranks
    from flover.selftest.report import json_line, legend, matrix

    resolve_model(args)
    config, asked = from_args(args, EngineConfig), frozenset(given(args, EngineConfig))
    config, known = resolve_device(config), instruction_sets()
    if config.cpu_isa not in ("auto", *known):
        raise ConfigError(f"--cpu-isa {config.cpu_isa}: this machine runs {', '.join(known)}")
    space = restricted(ON_GPU if config.device == "cuda" else Space(isa=tuple(known)), config, asked)
    console, started = Console(highlight=False), time.perf_counter()
    results: dict[str, list[Finding]] = {}
    promised: list[Finding] = []
    for name, chosen in _formats(config, args.formats, asked).items():
        own, reasons = without_ranks(space, chosen)
        results[name] = _check(chosen, own, args.full, name)
        console.print(matrix(f"{config.model}, {name}", own, results[name]))
        for reason in reasons:
            console.print(f"not tried: {reason}", style="yellow", soft_wrap=True)
        _show_differences(console, results[name])
        if config.device == "cpu" or chosen.batch_invariant:
            promised += results[name]
    console.print(legend(space))
    seconds = time.perf_counter() - started
    unequal = sum(finding.difference is not None for finding in promised)
    verdict = f"{unequal} differ" if unequal else "all of them bit-equal"
    console.print(f"{len(promised)} cells in {seconds:.1f} s: {verdict}", style="red" if unequal else "green")
    print(json_line(command_line(), config.model, results, seconds))
    return 1 if unequal else 0


def _formats(config: EngineConfig, names: list[str] | None, asked: frozenset[str]) -> dict[str, EngineConfig]:
    """The configuration of each requested format, by name; on a GPU without --batch-invariant and with it."""
    if config.device == "cuda" and not config.batch_invariant:
        given_with = _formats(dataclasses.replace(config, batch_invariant=True), names, asked)
        pairs = [
            (name, dataclasses.replace(chosen, batch_invariant=invariant))
            for name, chosen in given_with.items()
            for invariant in (False, True)
        ]
        return {f"{name}{' with --batch-invariant' * chosen.batch_invariant}": chosen for name, chosen in pairs}
    if names is None:
        own = {name: getattr(config, name) for name in ("dtype", "quantization", "kv_cache_dtype")}
        parts = [str(value) for value in own.values() if value not in (None, "auto")]
        return {" ".join(parts) or "as configured by default": config}
    fixed = asked & {"dtype", "quantization", "kv_cache_dtype"}
    if fixed:
        raise ConfigError(f"--formats names the types itself: leave {', '.join(sorted(fixed))} out")
    chosen = list(FORMATS) if "all" in names else names
    return {name: dataclasses.replace(config, **FORMATS[name]) for name in chosen}


def _check(config: EngineConfig, space: Space, full: bool, name: str) -> list[Finding]:
    from flover.selftest.invariance import check_cells

    cells = all_cells(space) if full else few_cells(space)
    findings: list[Finding] = []
    with counting_bar(f"Checking {name}", len(cells)) as checked:
        for finding in check_cells(config, space, cells):
            findings.append(finding)
            checked()
    return findings


def _show_differences(console: Console, findings: list[Finding]) -> None:
    different = [finding for finding in findings if finding.difference is not None]
    for finding in different[:_SHOWN]:
        console.print(f"≠ {finding.cell}: {finding.difference}", style="red", soft_wrap=True)
    if len(different) > _SHOWN:
        console.print(f"  and {len(different) - _SHOWN} more", style="red")
