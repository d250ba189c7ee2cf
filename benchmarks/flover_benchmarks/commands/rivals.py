"""`flover bench rivals`: compares engines on the same tensors with the same client. Prints a table and a JSON line."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flover.bench.machine import cpu_facts, package_version
from flover.cli.flags import add_settings, count, from_args, given, number, to_flags
from flover.cli.models import add_model, resolve_model
from flover.cli.terminal import command_line, table_console
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.memory.machine import compute_threads
from flover.progress import described_bar
from flover_benchmarks.rivals.options import FLOVER, FORMATS, RIVALS, RivalOptions, parse_wanted

if TYPE_CHECKING:
    from flover_benchmarks.rivals.engines import Files
    from flover_benchmarks.rivals.find import Places
    from flover_benchmarks.rivals.model import Progress

PRESET = "llama-213m"
PIPE_WIDTH = 120
"""Width of the table without a terminal."""
_OURS = {
    "model",
    "tokenizer",
    "skip_tokenizer_init",
    "dtype",
    "quantization",
    "load_format",
    "revision",
    "download_dir",
}
"""Engine settings that the benchmark chooses."""


def add_rivals(kinds: Any) -> None:
    """The parser of `flover bench rivals`."""
    parser = kinds.add_parser(
        "rivals",
        help="compare llama.cpp, OpenVINO, ONNX Runtime and other engines with Flover, where they are installed",
        description="Serve one model with every installed engine, in every format, and send all of them the "
        "same requests. Engines that are not installed are named and left out. An engine in another environment is "
        "found through that environment's Python.",
    )
    add_model(parser, default=f"{PRESET} with random weights, made here; the names of other presets work too")
    what = parser.add_argument_group("what to measure")
    plain = RivalOptions()
    what.add_argument("--only", metavar="NAMES", help=f"rivals, separated by commas (default: {','.join(RIVALS)})")
    what.add_argument("--formats", nargs="+", choices=FORMATS, default=plain.formats, help="formats of the weights")
    what.add_argument(
        "--concurrency", nargs="+", type=count, metavar="N", default=plain.concurrency, help="requests at once"
    )
    helps = {
        "prompt_len": "prompt tokens of each request",
        "output_len": "output tokens of each request",
        "ttft_prompt_len": "prompt tokens of the single request for time to first token; 0 leaves it out",
        "seeds": "repetitions with different prompts; the result is the median",
    }
    for name, text in helps.items():
        flag = "--" + name.replace("_", "-")
        what.add_argument(
            flag, type=count, metavar="N", default=getattr(plain, name), help=f"{text} (default: %(default)s)"
        )
    what.add_argument(
        "--wanted",
        nargs="+",
        default=(),
        metavar="FORMAT:LOAD=RATIO",
        help="target ratios to the best rival: int8:32=2.0, or int4:ttft=0.7 for the first token",
    )
    add_places(parser)
    _add_patience(parser, plain)
    add_settings(parser, EngineConfig, skip=frozenset(_OURS))
    parser.set_defaults(run=_run)


def add_places(parser: argparse.ArgumentParser) -> None:
    """Flags for the installations of rivals."""
    where = parser.add_argument_group("installations of rivals")
    where.add_argument("--llama-server", metavar="PATH", help="llama.cpp's server (default: llama-server on the PATH)")
    where.add_argument("--ik-llama-server", metavar="PATH", help="ik_llama.cpp's server (default: it is left out)")
    for name in ("llama", "ik-llama"):
        where.add_argument(
            f"--{name}-args", metavar="ARGS", default="", help="more arguments for this server, as in a shell"
        )
    for name in ("openvino", "onnxruntime", "ctranslate2", "vllm", "transformers"):
        where.add_argument(
            f"--{name}-python", metavar="PATH", default=sys.executable, help="Python that has it (default: this one)"
        )


def _add_patience(where: argparse.ArgumentParser, plain: RivalOptions) -> None:
    where.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="directory for the model and its conversions, reused if present (default: a temporary directory)",
    )
    where.add_argument(
        "--patience",
        type=number,
        metavar="X",
        default=plain.patience,
        help="timeout in seconds for the start of a server, and for a request (default: %(default)g)",
    )


def rival_options(args: argparse.Namespace) -> RivalOptions:
    """The options from the command line. Raises `ConfigError`."""
    names = {item.name for item in dataclasses.fields(RivalOptions)} - {"only"}
    values = {name: value for name, value in vars(args).items() if name in names}
    values |= {name: tuple(dict.fromkeys(values[name])) for name in ("formats", "concurrency")}
    only = RIVALS if args.only is None else tuple(dict.fromkeys(args.only.split(",")))
    return RivalOptions(only=only, **values)


def _run(args: argparse.Namespace) -> int:
    options = rival_options(args)
    wanted = parse_wanted(tuple(args.wanted), options)
    resolve_model(args)
    from_args(args, EngineConfig)  # refuses what the servers would refuse
    places = places_of(args)
    if args.models is not None:
        args.models.mkdir(parents=True, exist_ok=True)
        return _compare(args, options, wanted, places, args.models)
    with tempfile.TemporaryDirectory(prefix="flover-rivals-") as directory:
        return _compare(args, options, wanted, places, Path(directory))


def places_of(args: argparse.Namespace) -> Places:
    """The installations of rivals from the flags of `add_places`. Raises `ConfigError`."""
    from flover_benchmarks.rivals.find import Places

    values: dict[str, Any] = {item.name: getattr(args, item.name) for item in dataclasses.fields(Places)}
    for name in ("llama_args", "ik_llama_args"):
        try:
            values[name] = tuple(shlex.split(values[name]))
        except ValueError as error:
            raise ConfigError(f"--{name.replace('_', '-')} cannot be read: {error}") from None
    return Places(**values)


def _compare(
    args: argparse.Namespace,
    options: RivalOptions,
    wanted: dict[tuple[str, str], float],
    places: Places,
    directory: Path,
) -> int:
    from rich.progress import TimeRemainingColumn

    from flover.bench.report import json_line
    from flover_benchmarks.rivals.engines import Flover, RivalMachine
    from flover_benchmarks.rivals.find import find_rivals
    from flover_benchmarks.rivals.results import facts, losses, noise, rows, table
    from flover_benchmarks.rivals.run import Contest

    machine = RivalMachine(compute_threads(getattr(args, "num_threads", None)), frozenset(cpu_facts()["flags"]))
    with described_bar(TimeRemainingColumn()) as progress:
        files = _files(getattr(args, "model", None), options, directory, progress)
        found = find_rivals(places, options, files, machine)
        for name, why in found.skipped.items():
            print(f"{name} is left out: {why}", file=sys.stderr)
        flags = to_flags(EngineConfig, _flover_settings(args, options))
        contenders = [Flover(files, package_version("flover"), tuple(flags)), *found.rivals]
        results = Contest(contenders, options, files.config.vocab_size, progress).run()
    lines = rows(results, wanted)
    console = table_console(PIPE_WIDTH)
    lengths = f"{options.prompt_len} in, {options.output_len} out"
    title = f"{files.source.name}: output tokens per second, {lengths}; medians of {options.seeds}"
    console.print(table(title, results, lines))
    for line in [*losses(lines), *noise(lines)]:
        print(line)
    for failure in results.failures:
        print(f"{failure.name}, {failure.kind}, {failure.load or 'getting ready'}: {failure.message}")
    for name, why in found.skipped.items():
        print(f"{name} was left out: {why}")
    for contender in contenders:
        if lacks := [kind for kind in options.formats if kind not in contender.forms]:
            print(f"{contender.name} was left out of {', '.join(lacks)}: it has no such weight format")
    versions = {contender.name: contender.version for contender in contenders}
    described = {"model": files.source.name, **dataclasses.asdict(options), "threads": machine.threads}
    facts_by_name = {"versions": versions, "skipped": found.skipped, **facts(results, lines)}
    print(json_line("rivals", command_line(), options=described, **facts_by_name))
    return 1 if any(failure.name == FLOVER for failure in results.failures) else 0


def _files(name: str | None, options: RivalOptions, directory: Path, progress: Progress) -> Files:
    """The model files, made or found. Raises `ConfigError` if a request would exceed the model's context."""
    from flover.bench.presets import PRESETS
    from flover.model.hf_config import read_model_directory
    from flover.model.locate import locate_model
    from flover_benchmarks.rivals.engines import Files
    from flover_benchmarks.rivals.model import make_model

    preset = PRESET if name is None else name
    source = make_model(preset, directory, progress) if preset in PRESETS else locate_model(preset).resolve()
    _, config = read_model_directory(source)
    longest = max(load.context for load in options.loads)
    if longest > config.default_max_len:
        raise ConfigError(
            f"prompt and output together have {longest} tokens, and {source.name} takes {config.default_max_len}: "
            "--prompt-len, --output-len or --ttft-prompt-len is too long"
        )
    return Files(source, config, directory)


def _flover_settings(args: argparse.Namespace, options: RivalOptions) -> dict[str, Any]:
    """The given engine settings, with `max_num_seqs` raised to the largest concurrency."""
    settings = {name: value for name, value in given(args, EngineConfig).items() if name not in _OURS}
    most = max(options.concurrency)
    if most > EngineConfig().max_num_seqs:
        settings.setdefault("max_num_seqs", most)
    return settings
