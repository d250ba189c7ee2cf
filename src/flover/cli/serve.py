"""`flover serve`: the OpenAI-compatible server."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from flover.cli.flags import add_settings, from_args
from flover.cli.models import add_model, fetch_first, resolve_model
from flover.cli.parser import Parser
from flover.cli.vllm_flags import add_vllm_flags
from flover.config import EngineConfig, Limits, ServerConfig, read_environment


def add(commands: Any) -> Parser:
    """The command's part of the parser."""
    parser: Parser = commands.add_parser("serve", description="Serve a model through the OpenAI API.")
    add_model(parser)
    parser.add_config()
    add_settings(parser, EngineConfig, skip=frozenset({"model"}))
    add_settings(parser, ServerConfig)
    add_settings(parser, Limits)
    add_vllm_flags(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    resolve_model(args)
    engine = from_args(args, EngineConfig)
    server = dataclasses.replace(from_args(args, ServerConfig), limits=from_args(args, Limits))
    if not server.served_model_name:
        server = dataclasses.replace(server, served_model_name=(engine.model,))
    engine = fetch_first(engine)
    if engine.node_rank > 0:
        from flover.parallel.launch import follow_node

        return follow_node(engine)
    if not server.api_key:
        server = dataclasses.replace(server, api_key=read_environment().server_keys())
    from flover.ipc.spawn import engine_command, spawn

    command = engine_command(engine.distributed_executor_backend)
    spawned = spawn(command)
    try:
        from flover.ipc.messages import Start
        from flover.ipc.wire import encode

        spawned = spawned.tell(encode(Start(engine)))
        text = None
        if engine.distributed_executor_backend == "mp":  # what Ray serves is fetched while the server listens
            from flover.server.text_side import fetch_and_load_text

            text = fetch_and_load_text(engine, server)
        from flover.server.run import serve

        return serve(engine, server, engine_command=command, spawned=spawned, text=text)
    finally:
        spawned.end()
