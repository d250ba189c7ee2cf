"""`flover generate`: text for one or several prompts, from a model in this process."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from flover.cli.flags import add_settings, count, from_args
from flover.cli.interrupt import native_imports
from flover.cli.models import add_model, fetch_first, resolve_model
from flover.cli.parser import Parser, shorten
from flover.cli.sampling import add_sampling, add_structured_outputs, sampling_from
from flover.cli.vllm_flags import add_vllm_flags
from flover.config import EngineConfig
from flover.errors import ConfigError


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "generate",
        description="Generate text. One prompt is streamed; several are fused and printed when all are done. "
        "Without --prompt the prompt is read from standard input.",
    )
    add_model(parser)
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "-p", "--prompt", action="append", nargs="+", metavar="TEXT", help="a prompt; several may be given"
    )
    group.add_argument("--n", type=count, default=1, metavar="N", help="answers to each prompt (default: 1)")
    add_sampling(parser, max_tokens=128)
    add_structured_outputs(parser)
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    add_vllm_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    resolve_model(args)
    params = sampling_from(args, n=args.n, structured_outputs=args.structured_outputs)
    prompts = [text for texts in args.prompt or [] for text in texts] or [_read_stdin(args.model_argument)]
    config = fetch_first(from_args(args, EngineConfig))
    with native_imports():
        from flover.cli.local import LocalModel
    from flover.progress import loading_bar

    with loading_bar(config.model) as progress:
        model = LocalModel(config, progress)
    with model:
        pieces = model.generate(prompts, params)
        if len(prompts) == 1 and params.n == 1:
            for _, _, piece in pieces:
                print(piece.text, end="", flush=True)
            print()
            return 0
        answers: dict[tuple[int, int], str] = {}
        for place, index, piece in pieces:
            answers[place, index] = answers.get((place, index), "") + piece.text
    for (place, index), text in sorted(answers.items()):
        print(f"--- {prompts[place]}" + (f" [{index}]" if params.n > 1 else ""))
        print(text)
    return 0


def _read_stdin(model: str | None) -> str:
    """The prompt on stdin. Raises `ConfigError` if there is none; a MODEL that is no directory may be a prompt."""
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    if text:
        return text
    if model is not None and not Path(model).is_dir():
        raise ConfigError(
            f"there is no prompt, and {shorten(model)} was read as the model; to give it as the prompt: "
            f"flover generate -p {shlex.quote(model)}"
        )
    raise ConfigError("there is no prompt: give one with -p or on standard input")
