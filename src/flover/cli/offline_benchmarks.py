"""`flover bench latency` and `flover bench throughput`: the engine alone, without a server."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from flover.bench.serving.choose import Data, choose_dataset
from flover.bench.serving.offline_options import LatencyOptions
from flover.cli.files import check_output
from flover.cli.flags import add_settings, from_args, given
from flover.cli.interrupt import native_imports
from flover.cli.models import add_model, resolve_model
from flover.cli.serving_options import add_dataset_flags, command, given_for_datasets
from flover.cli.vllm_flags import add_vllm_flags
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.progress import counting_bar

_MODEL = frozenset({"model"})


def add_latency(kinds: Any) -> None:
    """The parser of `flover bench latency`."""
    parser = kinds.add_parser(
        "latency",
        help="latency of one batch of a fixed size, without a server",
        description="Run batches of one size, one after another, in this process.",
    )
    add_model(parser)
    add_settings(parser, LatencyOptions)
    add_settings(parser, EngineConfig, skip=_MODEL)
    add_vllm_flags(parser)
    parser.set_defaults(run=_run_latency)


def add_throughput(kinds: Any) -> None:
    """The parser of `flover bench throughput`."""
    parser = kinds.add_parser(
        "throughput",
        help="requests and tokens per second of the engine, without a server",
        description="Submit all requests to the engine at once, in this process.",
    )
    add_model(parser)
    engine = frozenset(item.name for item in dataclasses.fields(EngineConfig))
    add_settings(parser, Data, skip=engine | {"self_timed"})
    add_dataset_flags(parser)
    group = parser.add_argument_group("requests")
    group.add_argument("--ignore-eos", action=argparse.BooleanOptionalAction, help="default: on for random prompts")
    group.add_argument("--disable-tqdm", action="store_true", help="show no progress")
    group.add_argument("--output-json", metavar="FILE", help="file for the result")
    add_settings(parser, EngineConfig, skip=_MODEL)
    add_vllm_flags(parser)
    parser.set_defaults(run=_run_throughput)


def _run_latency(args: argparse.Namespace) -> int:
    from rich.console import Console

    with native_imports():
        from flover.bench.serving.offline import measure_latency
        from flover.bench.serving.offline_report import latency_table
        from flover.llm.llm import LLM

    resolve_model(args)
    options = from_args(args, LatencyOptions)
    check_output("--output-json", options.output_json)
    settings = _with_rows(args, options.num_rows)
    config = EngineConfig(**settings)
    with (
        LLM(**settings) as llm,
        counting_bar("batches", options.num_iters_warmup + options.num_iters) as ended,
    ):
        most, asked_len = llm.max_model_len, options.input_len + options.output_len
        if asked_len > most:
            raise ConfigError(
                f"--input-len {options.input_len} and --output-len {options.output_len} are {asked_len} tokens, more "
                f"than the model's context of {most} (max_model_len)"
            )
        latency = measure_latency(llm, options, config.seed or 0, ended)
    title = f"{config.model}: {options.batch_size} requests, {options.input_len} in, {options.output_len} out"
    Console(highlight=False).print(latency_table(title, latency))
    asked = {"model": config.model, **dataclasses.asdict(options)}
    return finish("latency", asked, latency.result(), options.output_json)


def _with_rows(args: argparse.Namespace, num_rows: int) -> dict[str, Any]:
    """The engine's settings, with `max_num_seqs` at least the batch size. Raises `ConfigError` if it was set lower."""
    settings = given(args, EngineConfig)
    asked = settings.setdefault("max_num_seqs", max(num_rows, EngineConfig().max_num_seqs))
    if asked < num_rows:
        raise ConfigError(f"--max-num-seqs is {asked}, but --batch-size x --n is {num_rows}: not one batch")
    return settings


def _run_throughput(args: argparse.Namespace) -> int:
    from rich.console import Console

    from flover.bench.serving.fit import check_lengths, fit_lengths

    with native_imports():
        from flover.bench.serving.offline import measure_throughput
        from flover.bench.serving.offline_report import throughput_table
        from flover.bench.serving.prepare import draw_samples, load_tokenizer
        from flover.llm.llm import LLM

    resolve_model(args)
    check_output("--output-json", args.output_json)
    config = from_args(args, EngineConfig)
    data = Data(**(given(args, Data) | {"seed": config.seed or 0, "tokenizer": None}))
    own = given_for_datasets(args)
    dataset = choose_dataset(data, own)
    ignore_eos = data.is_made if args.ignore_eos is None else args.ignore_eos
    with LLM(**given(args, EngineConfig)) as llm:
        dataset, note = fit_lengths(dataset, llm.max_model_len, own)
        if note is not None:
            print(note)
        samples = draw_samples(data, dataset, load_tokenizer(config.tokenizer))
        check_lengths(samples, llm.max_model_len)
        done = measure_throughput(llm, samples, ignore_eos=ignore_eos, show=not args.disable_tqdm)
    Console(highlight=False).print(throughput_table(f"{config.model}: {len(samples)} requests at once", done))
    asked = {"dataset_name": data.dataset_name, **given_for_datasets(args), "model": config.model}
    return finish("throughput", asked, done.result(), args.output_json)


def finish(benchmark: str, options: dict[str, Any], result: dict[str, Any], file: str | None) -> int:
    """Write the result to `file` and print it as the last line."""
    import json

    from flover.bench.report import json_line, tidy

    if file is not None:
        Path(file).write_text(json.dumps(tidy(result), indent=4) + "\n")
        print(f"{file} written")
    print(json_line(benchmark, command(), options=options, **result))
    return 0
