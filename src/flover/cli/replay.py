"""`flover replay`: runs a schedule recorded by `--trace` again and compares it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flover.cli.flags import add_settings, given
from flover.cli.interrupt import native_imports
from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.progress import counting_bar, loading_bar

if TYPE_CHECKING:
    from flover.engine.executor import Executor
    from flover.observe.record import Head
    from flover.observe.record_reader import Record
    from flover.observe.replay import Replay
    from flover.structured_outputs import Vocabulary

_OVERRIDES = frozenset({"num_threads", "cpu_isa", "download_dir"})
"""Settings without effect on decisions and tokens."""


def add(commands: Any) -> argparse.ArgumentParser:
    """The command's part of the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        description="Run a schedule recorded by --trace again: the same requests at the same steps, with the recorded "
        "costs. All decisions and tokens must be equal. Exit code 0 if they are, 1 if not.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the FILE of --trace, or its FILE.replay")
    parser.add_argument("--schedule-only", action="store_true", help="replay the decisions alone, without the model")
    parser.add_argument(
        "--model", default=None, metavar="MODEL", help="directory of the same model; by default the recorded one"
    )
    hidden = {item.name for item in dataclasses.fields(EngineConfig)} - _OVERRIDES
    add_settings(parser, EngineConfig, skip=frozenset(hidden))
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Replay and print the comparison; 0 if all was equal, 1 if not."""
    with native_imports():
        from flover.observe.record_reader import read_record
        from flover.observe.replay import replay

    path = _record_path(args.file)
    record = read_record(path)
    if record.cut:
        print(f"{path} ends in the middle of a step: its recording was interrupted")
    config = _config(args, record.head)
    executor = _executor(args, config, record.head)
    try:
        with counting_bar("Replaying", len(record.steps)) as progress:
            done = replay(record, executor, progress, _vocabulary(config, record))
    finally:
        executor.close()
    _show(done, len(record.steps), tokens_computed=not args.schedule_only)
    return 0 if done.difference is None else 1


def _record_path(path: Path) -> Path:
    from flover.observe.trace import REPLAY_SUFFIX, replay_path

    if path.name.endswith(REPLAY_SUFFIX):
        return path
    if not path.name or path.is_dir():
        raise ConfigError(f"{path} is a directory: FILE is what --trace wrote")
    if not replay_path(path).exists():
        raise ConfigError(f"{replay_path(path)} is not there: flover replay needs the record beside the trace")
    return replay_path(path)


def _config(args: argparse.Namespace, head: Head) -> EngineConfig:
    overrides = given(args, EngineConfig)
    model = overrides.pop("model")
    if args.schedule_only and (model is not None or overrides):
        raise ConfigError("--schedule-only loads no model: leave the flags of the model out")
    config = dataclasses.replace(head.engine, trace=None, kv_offload_path=None, **overrides)
    return config if model is None else dataclasses.replace(config, model=model)


def _vocabulary(config: EngineConfig, record: Record) -> Vocabulary | None:
    """That of the model's tokenizer, if the record has requests with structured outputs."""
    from flover.engine.queue import Submit

    inputs = (one for step in record.steps for one in step.inputs)
    if all(not isinstance(one, Submit) or one.request.params.structured_outputs is None for one in inputs):
        return None
    from flover.model.locate import locate_tokenizer
    from flover.text.tokenizer import Tokenizer

    path = locate_tokenizer(config)
    return None if path is None else Tokenizer.load(path).vocabulary


def _executor(args: argparse.Namespace, config: EngineConfig, head: Head) -> Executor:
    if args.schedule_only:
        from flover.observe.replay import RecordedExecutor

        return RecordedExecutor(head.facts)
    with native_imports():
        from flover.executor.background import overlapping
        from flover.executor.load import load_device

    with loading_bar(config.model) as progress:
        executor = load_device(config, progress)
    return overlapping(executor) if head.scheduler.async_scheduling else executor


def _show(done: Replay, steps: int, *, tokens_computed: bool) -> None:
    equal = "recomputed" if tokens_computed else "taken from the record"
    print(f"steps   {done.steps} of {steps} replayed")
    print(f"plans   {done.plans_equal} of {done.plans} equal")
    print(f"tokens  {done.tokens_equal} of {done.tokens} equal, {equal}")
    if done.difference is None:
        print("no difference")
        return
    different = done.difference
    print(f"first difference: step {different.step}, {different.what}")
    print(f"  recorded  {different.recorded}")
    print(f"  replayed  {different.replayed}")
