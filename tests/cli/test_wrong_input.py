"""Wrong input to every command: one clear line on stderr under the command's own name, never a traceback."""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flover.cli.main import COMMANDS, main, make_parser
from flover.cli.parser import Parser


def leaves(parser: Parser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Every command that runs something, with the words that lead to it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, child in action.choices.items():
            yield from leaves(child, (*words, name))


LEAVES = dict(pair for name in COMMANDS for pair in leaves(make_parser(name)))
RUNNING = {words: parser for words, parser in LEAVES.items() if words != ("version",)}
FLAGS = [
    (words, action)
    for words, parser in RUNNING.items()
    for action in parser._actions
    if action.option_strings and action.help != argparse.SUPPRESS and action.dest != "help"
]


def complaint(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and the one line on stderr, of which the sweep holds that it is one."""
    capsys.readouterr()
    code = main(words)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out == "", "nothing runs after a wrong argument"
    assert err.count("\n") == 1, err
    return code, err


@pytest.mark.parametrize("words", RUNNING, ids=" ".join)
def test_an_unknown_flag_is_the_commands_own_error_and_its_value_is_no_model(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["--fooo", "bar"], ["--fooo=bar"], ["value", "--fooo", "bar"]):
        code, err = complaint([*words, *wrong], capsys)
        assert code == 2
        assert err.startswith(f"flover {' '.join(words)}: error: unknown flag '--fooo'")


@pytest.mark.parametrize("words", RUNNING, ids=" ".join)
def test_a_misspelt_flag_is_suggested(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    parser = RUNNING[words]
    flags = [option for own, action in FLAGS if own == words for option in action.option_strings if len(option) >= 6]
    assert flags
    for flag in flags:
        misspelt = flag[:4] + flag[5:]
        if misspelt in parser.flags:
            continue
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([misspelt, "1"])
        err = capsys.readouterr().err
        assert ended.value.code == 2
        assert err.startswith(f"flover {' '.join(words)}: error: unknown flag {misspelt!r}; did you mean --"), err
        assert err.count("\n") == 1


WRONG = [
    "",
    " ",
    "-1",
    "nan",
    "1e999",
    "many",
    "\ud83d",
    "x" * 10_000,
    "/no/such/file",
    "0x10",
    "inf",
    "None",
    "--",
    "é",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(choice=st.sampled_from(FLAGS), value=st.one_of(st.sampled_from(WRONG), st.text(max_size=8)))
def test_a_value_of_the_wrong_kind_is_one_line(
    choice: tuple[tuple[str, ...], argparse.Action], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of flags that take numbers and choices: they are refused by the parser, before anything is loaded."""
    words, action = choice
    if action.nargs == 0 or "\0" in value:
        return
    try:
        RUNNING[words]._get_values(action, [value])
    except argparse.ArgumentError:
        code, err = complaint([*words, f"{action.option_strings[-1]}={value}"], capsys)
        assert code == 2
        assert err.startswith(f"flover {' '.join(words)}: error: ")
        assert len(err) < 1000, "a long value is cut"
        assert any(option in err for option in action.option_strings)


@pytest.mark.parametrize("words", [(), *sorted({words[:-1] for words in LEAVES if len(words) > 1})], ids=" ".join)
def test_a_command_that_only_has_commands_prints_its_help(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: {' '.join(['flover', *words])}")
    assert err == ""


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_help_is_printed_at_any_width(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in ("20", "80", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main([*words, "--help"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(f"usage: flover {' '.join(words)}"[: int(columns) - 2])
        assert err == ""
        assert not {"%(", "==SUPPRESS=="} & set(out.split())


WRONG_COMMANDS = [
    (["sevre"], 2, "flover: error: argument COMMAND: ", "did you mean serve?"),
    (["bench", "sevre"], 2, "flover bench: error: argument BENCHMARK: ", "did you mean serve?"),
    (["--port", "1", "serve"], 2, "flover: error: ", "other flags come after the command"),
    (["serve", "--prt", "1"], 2, "flover serve: error: ", "did you mean --port?"),
    (["serve", "--dtype", "bflot16"], 2, "flover serve: error: argument --dtype: ", "did you mean bfloat16"),
    (["serve", ""], 2, "flover serve: error: ", "MODEL is empty"),
    (["serve", "one", "two"], 2, "flover serve: error: ", "unexpected argument 'two'"),
    (["generate", "hi"], 2, "flover generate: error: ", "flover generate -p hi"),
    (["generate", "hi there"], 2, "flover generate: error: ", "flover generate -p 'hi there'"),
    (["generate", "-p", "x", "--n", "0"], 2, "flover generate: error: ", "n must be a whole number between 1 and 64"),
    (["bench", "make-model", "/etc/passwd/x"], 2, "flover bench make-model: error: ", "/etc/passwd is no dir"),
    (["bench", "serve", "--dataset-name", "custom", "--dataset-path", "/"], 2, "flover bench serve: error: ", "/"),
    (["bench", "serve", "--result-dir", "/etc/passwd", "--save-result"], 2, "flover bench serve: error: ", "is no dir"),
    (["bench", "paper", "--output-dir", "/etc/passwd"], 2, "flover bench paper: error: ", "/etc/passwd is no dir"),
    (["replay", "/no/such/file"], 2, "flover replay: error: ", "/no/such/file"),
    (["replay", "/"], 2, "flover replay: error: ", "/"),
    (["simulate", "fleet", "--request-rate", "0"], 2, "flover simulate fleet: error: ", "--request-rate"),
    (["simulate", "fleet", "--cost", "1,x"], 2, "flover simulate fleet: error: ", "--cost"),
    (["demo", "--rate", "0"], 2, "flover demo: error: ", "--rate"),
    (["demo", "--rate=-1"], 2, "flover demo: error: ", "--rate"),
    (["demo", "--rate", "inf"], 2, "flover demo: error: ", "--rate"),
    (["top", "--seconds", "nan", "--once"], 2, "flover top: error: ", "--seconds"),
    (["bench", "sweep", "--request-rates", "fast"], 2, "flover bench sweep: error: ", "--request-rates"),
    (["bench", "sweep", "--serve-params", "{", "--serve-cmd", "x"], 2, "flover bench sweep: error: ", "--serve-params"),
    (["bench", "latency", "--batch-size", "0"], 2, "flover bench latency: error: ", "--batch-size"),
    (["bench", "latency", "--output-json", "/proc/none/x"], 2, "flover bench latency: error: ", "--output-json"),
    (["bench", "throughput", "--output-json", "/"], 2, "flover bench throughput: error: ", "--output-json"),
    (["bench", "fusion", "--num-requests", "0"], 2, "flover bench fusion: error: ", "--num-requests"),
    (["bench", "interference", "--rounds", "0"], 2, "flover bench interference: error: ", "--rounds"),
    (["bench", "interference", "--pause", "nan"], 2, "flover bench interference: error: ", "--pause"),
    (["bench", "accuracy", "--text", "/no/such/file"], 2, "flover bench accuracy: error: ", "/no/such/file"),
    (["bench", "accuracy", "--text", "/"], 2, "flover bench accuracy: error: ", "/"),
    (["bench", "accuracy", "--context-len", "0"], 2, "flover bench accuracy: error: ", "--context-len"),
]


@pytest.mark.parametrize(
    ("words", "code", "begin", "part"), WRONG_COMMANDS, ids=[" ".join(words)[:60] for words, *_ in WRONG_COMMANDS]
)
def test_wrong_input_is_one_line_with_the_right_name(
    words: list[str],
    code: int,
    begin: str,
    part: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    found, err = complaint(words, capsys)
    assert found == code
    assert err.startswith(begin)
    assert part in err


@pytest.mark.parametrize("words", ["bench paper --quick", "bench kernels", "simulate", "simulate fleet --cost 1"])
def test_a_benchmark_that_is_not_installed_says_how_to_install_it(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("flover.cli.main", "flover.cli.benchmarks"):
        monkeypatch.setattr(f"{module}.benchmarks_installed", lambda: False)
    code, err = complaint(words.split(), capsys)
    assert code == 2
    assert "pip install ./benchmarks" in err


def shell(command: str) -> subprocess.CompletedProcess[str]:
    line = f"set -o pipefail; unset PYTHONUNBUFFERED; {command.replace('flover', f'{sys.executable} -m flover')}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("flover serve --help > /dev/full", 1, "flover: error: No space left on device\n"),
        ("flover version > /dev/full", 1, "flover version: error: No space left on device\n"),
        ("PYTHONUNBUFFERED=1 flover version > /dev/full", 1, "flover version: error: No space left on device\n"),
        ("flover version >&-", 0, ""),
        ("PYTHONIOENCODING=ascii flover serve --help > /dev/null", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_no_traceback(command: str, code: int, err: str) -> None:
    done = shell(command)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert (done.returncode, done.stderr) == (code, err)


@pytest.mark.parametrize("words", [["serve", "--help"], ["version"]], ids=" ".join)
def test_output_that_is_read_no_more_ends_the_command_quietly(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        command = [sys.executable, "-m", "flover", *words]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (141, "")


LONG_COMMANDS = [
    ["generate", "-p", "Once", "--ignore-eos", "--max-tokens=900", "--n=64", "--temperature=1"],
    ["bench", "fusion", "--num-requests=500"],
]
INTERRUPTED = """
import os, signal, sys
at, count, last = sys.argv.pop(1), 0, ""
def imports(event, arguments):
    global at, count, last
    if event == "import" and (count or arguments[0] == "flover.cli"):
        count += 1
        if count == 1:
            print("begins", flush=True)
        last = arguments[0]
    if at and at == (str(count) if event == "import" else last):
        at = ""
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(imports)
from flover.__main__ import main
sys.exit(main())
"""
"""The command, interrupted at the import of that number, if any, or inside the one of that name; says when it has
reached the first."""


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.5])
@pytest.mark.parametrize("words", LONG_COMMANDS, ids=["generate", "bench fusion"])
def test_ctrl_c_ends_a_command_without_a_traceback(words: list[str], seconds: float) -> None:
    """While it imports, loads or computes, which none of them is done with so soon."""
    command = [sys.executable, "-c", INTERRUPTED, "", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begins\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")


@pytest.mark.parametrize("at", ["1", "2", "20", "100", "450", "flover._cpu"])
def test_ctrl_c_at_an_import_ends_the_command_without_a_traceback(at: str) -> None:
    """As early as it can come: inside the first imports of the command, between later ones, and inside native code,
    which an exception there aborts."""
    command = [sys.executable, "-c", INTERRUPTED, at, *LONG_COMMANDS[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "")
