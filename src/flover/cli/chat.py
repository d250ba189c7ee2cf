"""`flover chat`: a conversation, with a model in this process or with a running server."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flover.cli.flags import add_settings, from_args
from flover.cli.models import add_model, resolve_model
from flover.cli.parser import Parser
from flover.cli.sampling import add_sampling, sampling_from
from flover.cli.vllm_flags import add_vllm_flags
from flover.config import EngineConfig, read_environment
from flover.errors import RequestError
from flover.request import SamplingParams

Message = dict[str, str]
Answer = Callable[[Sequence[Message]], Iterator[str]]
"""From a conversation to the pieces of the answer."""


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "chat",
        description="Talk to a model in this process, or to a running server with --url. "
        "/reset forgets the conversation, /exit or Ctrl-D ends it.",
    )
    add_model(parser)
    group = parser.add_argument_group("chat")
    group.add_argument("--url", metavar="URL", help="talk to this server, such as http://127.0.0.1:8000")
    group.add_argument("--api-key", metavar="KEY", help="the server's key; also read from FLOVER_API_KEY")
    group.add_argument("--system-prompt", metavar="TEXT", help="what the model is told before the conversation")
    group.add_argument("-q", "--quick", metavar="TEXT", help="send this one message, print the answer and end")
    add_sampling(parser, max_tokens=None, temperature=0.7)
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    add_vllm_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Hold one conversation."""
    resolve_model(args)
    params = sampling_from(args)
    with _remote(args, params) if args.url else _local(args, params) as answer:
        start: list[Message] = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
        if args.quick is not None:
            _reply(answer, [*start, {"role": "user", "content": args.quick}])
        else:
            _converse(answer, start)
    return 0


@contextmanager
def _local(args: argparse.Namespace, params: SamplingParams) -> Iterator[Answer]:
    config = from_args(args, EngineConfig)
    from flover.cli.loading import loading_bar
    from flover.cli.local import LocalModel

    with loading_bar(config.model) as progress:
        model = LocalModel(config, progress)
    with model:
        yield lambda messages: model.chat(messages, params)


@contextmanager
def _remote(args: argparse.Namespace, params: SamplingParams) -> Iterator[Answer]:
    from flover.cli.remote import RemoteModel

    key = args.api_key or read_environment().api_key
    remote = RemoteModel(args.url, key, getattr(args, "model", None))
    yield lambda messages: remote.chat(messages, params)


def _converse(answer: Answer, start: list[Message]) -> None:
    print("/reset forgets the conversation, /exit ends it.")
    messages = list(start)
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return
        if text == "/exit":
            return
        if text == "/reset":
            messages = list(start)
            print("(forgotten)")
        elif text.startswith("/"):
            print(f"There is no {text.split()[0]}; there are /reset and /exit.")
        elif text:
            messages = _turn(answer, messages, text)


def _turn(answer: Answer, messages: list[Message], text: str) -> list[Message]:
    """One message and its answer; a message that the model refuses is not remembered."""
    asked = [*messages, {"role": "user", "content": text}]
    try:
        return [*asked, {"role": "assistant", "content": _reply(answer, asked)}]
    except RequestError as error:
        print(f"({error})")
    except KeyboardInterrupt:
        print("\n(interrupted)")
    return messages


def _reply(answer: Answer, messages: Sequence[Message]) -> str:
    """Print the answer as it comes; returns it whole."""
    pieces = []
    for piece in answer(messages):
        pieces.append(piece)
        print(piece, end="", flush=True)
    print()
    return "".join(pieces)
