"""`flover run-batch`: every request is answered once, whatever was cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.servers import ServerProcess

from flover.cli.main import main


def line(name: str, **body: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"model": "toy", **body}})


def answers(path: Path) -> dict[str, Any]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


def test_a_batch_is_answered_once_and_goes_on_where_it_was_cut_short(
    server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [line(f"r{number}", prompt="abc", max_tokens=1 + number) for number in range(20)]
    given.write_text("\n".join([*lines, "", line("wrong", prompt="abc", temperature=-5)]))
    command = ["run-batch", "-i", str(given), "-o", str(made), "--base-url", server.url, "--max-concurrency", "3"]
    assert main(command) == 1
    found = answers(made)
    assert "21 answered, 1 of them with an error" in capsys.readouterr().out
    assert found["r4"]["response"]["body"]["usage"]["completion_tokens"] == 5
    assert found["wrong"]["response"]["status_code"] == 400 and "temperature" in str(found["wrong"]["response"]["body"])
    kept = made.read_bytes().splitlines(keepends=True)[:8]
    made.write_bytes(b"".join(kept) + b'{"id": "cut sho')
    main(command)
    assert answers(made).keys() == found.keys() and made.read_bytes().startswith(b"".join(kept))
    assert "13 answered, 8 were there" in capsys.readouterr().out


def test_a_server_that_is_gone_is_an_error_of_each(tmp_path: Path) -> None:
    given, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text(line("a", prompt="abc"))
    assert main(["run-batch", "-i", str(given), "-o", str(made), "--base-url", "http://127.0.0.1:9"]) == 1
    assert answers(made)["a"]["response"] is None and "Connect" in answers(made)["a"]["error"]["message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "line 1: "),
        (line("a") + "\n[]", "line 2: "),
        (line("a") + "\n" + line("a"), "line 2: custom_id 'a' is that of line 1 too"),
        (line("a", stream=True), "a batch is not streamed"),
        (
            line("a").replace("/v1/completions", "/v1/images"),
            "url must be one of /v1/chat/completions, /v1/completions",
        ),
        (line("a").replace("POST", "GET"), "method must be POST, got 'GET'"),
    ],
)
def test_a_wrong_line_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    given, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text(text)
    assert main(["run-batch", "-i", str(given), "-o", str(made), "--base-url", "http://127.0.0.1:9"]) == 2
    captured = capsys.readouterr().err
    assert said in captured and captured.count("\n") == 1 and not made.exists()
    given.write_text(line("a"))
    made.write_text("something else\n")
    assert main(["run-batch", "-i", str(given), "-o", str(made), "--base-url", "http://127.0.0.1:9"]) == 2
    assert "this is no answer of a batch" in capsys.readouterr().err
