"""The command line is the configuration: every field has its flag, and every flag reaches its field."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from flover.cli.flags import count, from_args, given, num_bytes, to_flags
from flover.cli.main import main, make_parser
from flover.config import EngineConfig, Limits, ServerConfig, flag_name
from flover.errors import ConfigError

FIELDS = [
    (config, item)
    for config in (EngineConfig, ServerConfig, Limits)
    for item in dataclasses.fields(config)
    if "group" in item.metadata
]
NGRAM = '{"method": "ngram", "num_speculative_tokens": 4}'
OTHER: dict[str, tuple[list[str], Any]] = {
    "model": (["dir"], "dir"),
    "served_model_name": (["a", "b"], ("a", "b")),
    "kv_cache_memory_bytes": (["512MiB"], 512 * 2**20),
    "max_model_len": (["32k"], 32_000),
    "max_num_seqs": (["8"], 8),
    "max_num_batched_tokens": (["4K"], 4096),
    "target_itl_ms": (["50.5"], 50.5),
    "port": (["0"], 0),
    "speculative_config": ([NGRAM], NGRAM),
    "lora_modules": (["a=b"], ("a=b",)),
    "nnodes": (["2", "--tensor-parallel-size", "2"], 2),
    "gpu_memory_utilization": (["0.5"], 0.5),
    "async_scheduling": ([], True),
    "ssl_keyfile": (["key.pem", "--ssl-certfile", "cert.pem"], "key.pem"),
    "kv_offload_path": (["dir", "--kv-offload-bytes", "1GiB"], "dir"),
    "kv_offload_persistent": (["--kv-offload-bytes", "1GiB", "--kv-offload-path", "dir"], True),
    "node_rank": (["1", "--nnodes", "2", "--tensor-parallel-size", "2"], 1),
}
"""What to write for a field, and the value it must come out as, where its type alone does not say."""


def example(item: dataclasses.Field[Any]) -> tuple[list[str], Any]:
    """Words after the flag, and the value that the field must have; never the default."""
    if item.name in OTHER:
        return OTHER[item.name]
    if item.metadata["choices"]:
        chosen = next(choice for choice in item.metadata["choices"] if choice != item.default)
        return [chosen], chosen
    if "int" in str(item.type):
        return ["7"], 7
    if "float" in str(item.type):
        return ["7.5"], 7.5
    return (["word"], ("word",)) if "tuple" in str(item.type) else (["word"], "word")


def parse(*words: str) -> Any:
    return make_parser("serve").parse_args(["serve", *words])


@pytest.mark.parametrize(("config", "item"), FIELDS, ids=[item.name for _, item in FIELDS])
def test_every_field_is_reached_by_its_flag(config: type[Any], item: dataclasses.Field[Any]) -> None:
    flag = flag_name(item.name)
    if item.type == "bool":
        for value in (True, False):
            args = parse(flag if value else "--no-" + flag.removeprefix("--"), *OTHER.get(item.name, ([],))[0])
            assert getattr(from_args(args, config), item.name) is value
        return
    words, value = example(item)
    assert value != item.default
    assert getattr(from_args(parse(flag, *words), config), item.name) == value


def test_the_configurations_share_no_field() -> None:
    names = [item.name for _, item in FIELDS]
    assert len(names) == len(set(names))


def test_defaults_are_those_of_the_configuration() -> None:
    args = parse()
    assert from_args(args, EngineConfig) == EngineConfig()
    assert from_args(args, ServerConfig) == ServerConfig()


def test_flags_written_from_values_are_read_back_as_the_same_values() -> None:
    values = {item.name: example(item)[1] for item in dataclasses.fields(EngineConfig) if item.type != "bool"}
    values |= {item.name: not item.default for item in dataclasses.fields(EngineConfig) if item.type == "bool"}
    assert set(values) == {item.name for item in dataclasses.fields(EngineConfig)}
    assert given(parse(*to_flags(EngineConfig, values)), EngineConfig) == values


@pytest.mark.parametrize(
    ("text", "value"), [("2048", 2048), ("32k", 32_000), ("32K", 32_768), ("1.5k", 1500), ("2m", 2_000_000), ("0", 0)]
)
def test_counts_take_units(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1000", 1000), ("512MiB", 2**29), ("2GiB", 2**31), ("1.5GiB", 3 * 2**29), ("2GB", 2 * 10**9), ("4KiB", 4096)],
)
def test_sizes_take_units(text: str, value: int) -> None:
    assert num_bytes(text) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "12x", "1.0001", "1e3", "0x10", "nan", "5 5", "2.5"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="not a"):
        count(text)


BAD = [
    (["serve", "--max-num-seqs", "many"], "--max-num-seqs"),
    (["serve", "--max-num-seqs", "0"], "--max-num-seqs must be at least 1, got 0"),
    (["serve", "--max-num-batched-tokens", "8"], "--max-num-batched-tokens (8) must be at least"),
    (["serve", "--dtype", "float7"], "--dtype"),
    (["serve", "--target-itl-ms", "nan"], "'nan' is not a number"),
    (["serve", "--kv-cache-memory-bytes", "2 gigs"], "such as 512MiB"),
    (["serve", "--reorde"], "--reorde"),
    (["serve", "--port", "70000"], "--port must be between 0 and 65535"),
    (["serve", "one", "--model", "other"], "named twice"),
    (["generate", "-p", "x", "--temperature", "-1"], "temperature must be a number between 0"),
    (["generate", "-p", "x", "--skip-tokenizer-init"], "--skip-tokenizer-init"),
    (["chat", "--url", "localhost:8000", "-q", "x"], "--url must begin with http"),
    (["demo", "--num-requests", "0"], "--num-requests"),
    (["sing"], "sing"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(words) or "nothing" for words, _ in BAD])
def test_a_wrong_command_is_one_line_and_code_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith("flover")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""


def test_a_model_that_is_not_there_is_one_line_and_code_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "/no/such/model", "-p", "x"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("flover generate: error: ")
    assert "/no/such/model" in err
    assert err.count("\n") == 1


def test_two_ways_to_name_the_model_may_agree() -> None:
    from flover.cli.models import resolve_model

    args = parse("dir", "--model", "dir")
    resolve_model(args)
    assert from_args(args, EngineConfig).model == "dir"
    with pytest.raises(ConfigError):
        resolve_model(parse("dir", "--model", "other"))


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["bench", "fusion", "--help"], ["--version"]])
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from flover.cli.main import main\n"
        f"assert main({words!r}) == 0\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'transformers', 'aiohttp', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "flover" in done.stdout


def test_help_is_grouped_and_says_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("scheduler:", "keys and values:", "server:", "(default: 64)", "(default: on)", "(default: 200)"):
        assert words in text
