"""The description of the API is true: requests made from it, valid and not, get the answers that it promises."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from support.servers import ServerProcess
from toy_engine import DEADLY

NUM_EXAMPLES = 20


@pytest.mark.long
def test_schemathesis_finds_no_deviation(start: Callable[..., ServerProcess]) -> None:
    """Random requests and sequences of them. Its other phase, every field at every border, takes minutes: see
    CONTRIBUTING.md."""
    settings = {"engine": {"max_model_len": 8192}, "server": {"pooling_type": "mean"}}
    server = start("--vocab-size", str(DEADLY), "--pool-tokens", str(8192), **settings)
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "run",
        f"{server.url}/openapi.json",
        "--no-color",
        "--generation-deterministic",
    ]
    done = subprocess.run(
        [*command, "--phases", "fuzzing,stateful", "--max-examples", str(NUM_EXAMPLES)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Test cases" in done.stdout
    assert server.http.get("/health").status_code == 200


def test_the_description_names_every_route(server: ServerProcess) -> None:
    described = server.http.get("/openapi.json").json()["paths"]
    for path, methods in described.items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert {"400", "500", "503"} <= answers.keys() or method == "get", (path, sorted(answers))
            answer = server.http.request(method, path.replace("{name}", "toy"))
            assert str(answer.status_code) in answers, (path, answer.status_code)


@pytest.mark.parametrize(
    "constraint",
    [
        *({"regex": text} for text in ("é+|[^a]{2,3}?", "^\\w*$", ".{0}b", "(a", "a{2,1}", "*", "[b", "a" * 1025, 7)),
        *({"choice": texts} for texts in (["é", "\u2028 ("], [""], [], ["a" * 1025], "a")),
    ],
)
def test_a_constraint_is_taken_where_the_description_allows_it(
    server: ServerProcess, constraint: dict[str, Any]
) -> None:
    document = server.http.get("/openapi.json").json()
    schema = document["components"]["schemas"]["CompletionBody"]["properties"]["structured_outputs"]
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["regex"]))
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 4, "structured_outputs": constraint})
    assert (answer.status_code == 200) == validator.is_valid(constraint), answer.text
    assert answer.status_code in (200, 400)
