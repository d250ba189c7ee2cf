"""What a start imports: nothing that the help, the server or its engine has no use for yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "transformers",
    "aiohttp",
    "huggingface_hub",
    "matplotlib",
    "ray",
    "PIL",
    "requests",
    "httpx",
    "llguidance",
}
SERVER_ONLY = {"starlette", "uvicorn", "uvloop", "asyncio", "tokenizers", "jinja2", "rich", "prometheus_client"}
ENGINE_ONLY = {"numpy", "safetensors"}


def imported(statement: str) -> set[str]:
    """The top-level modules that a process has after `statement`."""
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import flover", HEAVY | SERVER_ONLY | ENGINE_ONLY | {"argparse", "msgspec", "dataclasses"}),
        ("from flover.cli.main import make_parser; make_parser()", HEAVY | SERVER_ONLY | ENGINE_ONLY),
        ("from flover.cli.main import make_parser; make_parser('serve')", HEAVY | SERVER_ONLY | ENGINE_ONLY),
        ("import flover.service.process, flover.service.build", HEAVY | SERVER_ONLY),
        ("import flover.server.run", HEAVY | ENGINE_ONLY),
    ],
)
def test_a_start_imports_what_it_needs(statement: str, unwanted: set[str]) -> None:
    assert imported(statement) & unwanted == set()
