"""`flover serve --config FILE`: flags from YAML, which the command line overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from flover.cli.main import make_parser


def parse(*arguments: str) -> dict[str, object]:
    return vars(make_parser("serve").parse_args(["serve", *arguments]))


def test_flags_of_a_file_count_until_the_command_line_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "flover.yaml"
    file.write_text(
        "model: org/name\nport: 8123\napi-key: [first, second]\nenable_prefix_caching: false\nmax-num-seqs: 12\n"
    )
    found = parse("--config", str(file), "--max-num-seqs", "9")
    assert (found["port"], found["enable_prefix_caching"], found["max_num_seqs"]) == (8123, False, 9)
    assert tuple(found["api_key"]) == ("first", "second")  # type: ignore[call-overload]
    assert found == parse(f"--config={file}", "--max-num-seqs=9")
    assert "org/name" in (found["model"], found.get("model_flag"))
    file.write_text("")
    assert parse("--config", str(file)) == parse()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot: 1", "unknown flag prot; did you mean --port?"),
        ("config: other.yaml", "unknown flag config"),
        ("[1, 2]", "must map names of flags to their values"),
        ("port: [", "is not YAML"),
        ("api-key: [[1]]", "api-key must have a value, or a list of them"),
        ("port: [8123, org/name]", "port takes one value, not a list"),
        ("port:", "port must have a value, or a list of them"),
        ("port: many", "--port: 'many' is not a whole number"),
        ("x: " + "y" * 2**20, "has more than 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    file = tmp_path / "flover.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        parse("--config", str(file))
    captured = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in captured and captured.startswith("flover serve: error: ") and captured.count("\n") == 1


def test_a_file_that_is_not_there_or_not_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--config", str(tmp_path / "none")], ["--config"], ["--config=a", "--config=b"]):
        with pytest.raises(SystemExit):
            parse(*arguments)
    found = capsys.readouterr().err
    assert "No such file" in found and "needs a file" in found and "given twice" in found
