"""A server loads its engines and its text side at the same time, and leaves nothing behind when either fails."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from flover.config import EngineConfig, ServerConfig
from flover.errors import ModelError
from flover.server import text_side
from flover.server.app_state import AppState
from flover.server.loading import load
from flover.service.supervisor import Supervisor

COMMAND = (sys.executable, str(Path(__file__).parent / "toy_engine.py"))


async def load_toy(*options: str) -> Supervisor:
    config = EngineConfig(skip_tokenizer_init=True)
    return await load(AppState(config, ServerConfig(port=0)), config, (*COMMAND, *options), None, Console(quiet=True))


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "toy_engine.py" in " ".join(each.cmdline())]


def test_engines_load_beside_the_text_side(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, start, load_text = threading.Event(), Supervisor.start, text_side.load_text

    async def start_and_tell(*arguments: Any, **settings: Any) -> Supervisor:
        engines = await start(*arguments, **settings)
        loaded.set()
        return engines

    def load_text_after_engines(*arguments: Any) -> Any:
        assert loaded.wait(20), "the engines wait for the text side"
        return load_text(*arguments)

    monkeypatch.setattr(Supervisor, "start", start_and_tell)
    monkeypatch.setattr(text_side, "load_text", load_text_after_engines)

    async def scenario() -> None:
        engines = await load_toy()
        assert engines.alive
        await engines.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("first", ["text", "engines"])
def test_a_text_side_that_fails_ends_the_engines(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, start = threading.Event(), Supervisor.start

    async def start_and_tell(*arguments: Any, **settings: Any) -> Supervisor:
        engines = await start(*arguments, **settings)
        loaded.set()
        return engines

    def fail(*arguments: Any) -> None:
        if first == "engines":
            assert loaded.wait(20)
        raise ModelError("no tokenizer.json")

    monkeypatch.setattr(Supervisor, "start", start_and_tell)
    monkeypatch.setattr(text_side, "load_text", fail)
    with pytest.raises(ModelError, match="no tokenizer"):
        asyncio.run(load_toy("--load-delay", "0" if first == "engines" else "30"))
    assert children() == []


def test_engines_that_fail_end_the_start() -> None:
    with pytest.raises(ModelError):
        asyncio.run(load_toy("--fail", "model"))
    assert children() == []
