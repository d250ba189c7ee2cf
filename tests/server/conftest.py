"""A model folder whose tokens are bytes, and servers on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import tokenizers
from support.servers import ServerProcess
from tokenizers import decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if shout %}!{% endif %}{% if add_generation_prompt %}a:{% endif %}"
)

ECHO_TEMPLATE = (
    "{# <tool_call> <think> </think> #}{% if show %}{{ messages[1].tool_calls[0].function.arguments.x }}"
    "{{ messages[2].content }}{% else %}{{ messages[-1].content }}{% endif %}<eos>{{ tools | tojson if tools }}"
    "{% for m in messages %}{{ m.role }}{% endfor %}{% if open %}<think>{% endif %}"
)
"""For the toy model, which repeats the prompt up to `<eos>`: the last message is the answer."""


def _byte_characters() -> list[str]:
    """How byte-level tokenizers write the bytes 0..255 (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids 0..255 are bytes, 256 is `<eos>`, then `<think>` and `</think>`; the model of toy_engine.py."""
    folder = tmp_path_factory.mktemp("toy-model")
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    backend.add_tokens(["<think>", "</think>"])
    assert backend.encode("é<eos>").ids == [*"é".encode(), 256]
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 256, "temperature": 0.0}))
    return folder


@pytest.fixture
def start(model_folder: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers and ends them after the test."""
    servers: list[ServerProcess] = []

    def begin(*toy_options: str, **arguments: Any) -> ServerProcess:
        servers.append(ServerProcess(model_folder, *toy_options, **arguments))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(model_folder: Path) -> Iterator[ServerProcess]:
    """One server for all tests that leave it as it was."""
    running = ServerProcess(model_folder, "--delay", "0.002")
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    """The official client of the shared server."""
    return server.client()


@pytest.fixture(scope="session")
def echo(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that answers with the last message, which may hold reasoning and tool calls."""
    template = tmp_path_factory.mktemp("template") / "template.jinja"
    template.write_text(ECHO_TEMPLATE)
    running = ServerProcess(model_folder, server={"chat_template": str(template)})
    yield running
    assert running.stop() == 0
