"""`flover run`: downloads a model if it is not here yet, and chats with it."""

from __future__ import annotations

import argparse
from typing import Any

from flover.cli import chat
from flover.cli.models import add_model
from flover.cli.parser import Parser
from flover.errors import ConfigError


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser(
        "run",
        description="Download a model if it is not on this machine, and chat with it as flover chat does. With PROMPT, "
        "print the answer to it and exit.",
    )
    add_model(parser)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="send this one message, print the answer and exit")
    chat.add_chat(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run one conversation."""
    if args.prompt is not None:
        if args.quick is not None:
            raise ConfigError("the message is given twice: as PROMPT and with --quick")
        args.quick = args.prompt
    return chat.run(args)
