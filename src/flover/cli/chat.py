"""`flover chat`: a chat with a model in this process or on a running server."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flover.cli.flags import add_settings, from_args
from flover.cli.interrupt import native_imports
from flover.cli.models import add_model, fetch_first, resolve_model
from flover.cli.parser import Parser
from flover.cli.sampling import add_sampling, sampling_from
from flover.cli.vllm_flags import add_vllm_flags
from flover.config import EngineConfig, read_environment
from flover.request import CHAT_DEFAULTS

if TYPE_CHECKING:
    from flover.cli.conversation import Answer


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "chat",
        description="Chat with a model in this process, or with a running server (--url). "
        "/help lists the commands, /exit or Ctrl-D ends the chat. Piped input is answered line by line: "
        "only answers are printed.",
    )
    add_model(parser)
    add_chat(parser)
    parser.set_defaults(run=run)
    return parser


def add_chat(parser: Parser) -> None:
    """The flags of a chat."""
    group = parser.add_argument_group("chat")
    group.add_argument("--url", metavar="URL", help="server to use, such as http://127.0.0.1:8000")
    group.add_argument("--api-key", metavar="KEY", help="the server's key; also read from FLOVER_API_KEY")
    group.add_argument("--system-prompt", metavar="TEXT", help="system message of the conversation")
    group.add_argument("-q", "--quick", metavar="TEXT", help="send this one message, print the answer and exit")
    add_sampling(parser, **CHAT_DEFAULTS)
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    add_vllm_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run one conversation."""
    resolve_model(args)
    params = sampling_from(args)
    with _remote(args) if args.url is not None else _local(args) as answer:
        from flover.cli.conversation import Conversation

        conversation = Conversation(answer, params, args.system_prompt)
        if args.quick is not None:
            conversation.ask(args.quick)
        else:
            conversation.run()
    return 0


@contextmanager
def _local(args: argparse.Namespace) -> Iterator[Answer]:
    config = fetch_first(from_args(args, EngineConfig))
    with native_imports():
        from flover.cli.local import LocalModel
    from flover.progress import loading_bar

    with loading_bar(config.model) as progress:
        model = LocalModel(config, progress)
    with model:
        yield model.chat


@contextmanager
def _remote(args: argparse.Namespace) -> Iterator[Answer]:
    from flover.cli.remote import RemoteModel

    key = args.api_key or read_environment().api_key
    yield RemoteModel(args.url, key, getattr(args, "model", None)).chat
