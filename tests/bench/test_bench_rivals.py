"""The comparison with rivals by known numbers, and what is said of a rival that is not there."""

import json
import os
import sys
from pathlib import Path

import pytest
from flover_benchmarks.commands.rivals import rival_options
from flover_benchmarks.rivals.engines import (
    PORT,
    Files,
    Flover,
    IkLlamaCpp,
    LlamaCpp,
    OpenVino,
    RivalMachine,
    Vllm,
)
from flover_benchmarks.rivals.find import Places, find_rivals
from flover_benchmarks.rivals.options import RivalLoad, RivalOptions, parse_wanted
from flover_benchmarks.rivals.results import Failure, RivalResults, Row, facts, losses, noise, rows, table
from flover_benchmarks.rivals.static import CTranslate2, OnnxRuntime, Transformers
from rich.console import Console

from flover.bench.metrics import Spread, Summary
from flover.bench.presets import PRESETS
from flover.bench.report import tidy
from flover.cli.main import make_parser
from flover.errors import ConfigError
from flover.model.hf_config import read_config

EIGHT, FIRST = RivalLoad(8, 64, 64), RivalLoad(1, 512, 8, first_token=True)
PLAIN, SIXTEEN = RivalMachine(2, frozenset({"avx2"})), RivalMachine(2, frozenset({"avx512_bf16"}))


def summary(throughput: float = 0.0, ttft_ms: float = 0.0) -> Summary:
    spread = Spread(ttft_ms, ttft_ms, ttft_ms, ttft_ms)
    return Summary(1, 0, 1.0, 64, 64, 0, throughput, spread, spread, spread, spread)


def results(**measured: list[Summary]) -> RivalResults:
    """Results of engines at eight requests of int8, by name."""
    names = {"flover": "flover", "llama": "llama.cpp", "openvino": "openvino"}
    found = RivalResults(("flover", "llama.cpp", "openvino"))
    for name, summaries in measured.items():
        found.cells["int8", EIGHT, names[name]] = summaries
    found.forms = {("int8", "flover"): "int8", ("int8", "llama.cpp"): "q8_0", ("int8", "openvino"): "int8"}
    return found


def test_medians_count_and_the_best_rival_is_the_fastest() -> None:
    found = results(
        flover=[summary(200), summary(900), summary(300)],
        llama=[summary(100), summary(120), summary(1)],
        openvino=[summary(150), summary(150), summary(149)],
    )
    (row,) = rows(found, {("int8", "8"): 2.0})
    assert row.figures == {"flover": 300, "llama.cpp": 100, "openvino": 150}
    assert (row.best, row.ratio, row.verdict) == ("openvino", 2.0, "held")


@pytest.mark.parametrize(
    ("load", "own", "wanted", "verdict"),
    [
        (EIGHT, 90, None, "LOST"),
        (EIGHT, 90, 0.8, "LOST"),
        (EIGHT, 110, None, ""),
        (EIGHT, 110, 1.2, "short"),
        (EIGHT, 120, 1.2, "held"),
        (FIRST, 110, 0.7, "LOST"),
        (FIRST, 90, 0.7, "short"),
        (FIRST, 70, 0.7, "held"),
        (FIRST, 60, None, ""),
    ],
)
def test_the_verdict_knows_which_way_is_better(load: RivalLoad, own: float, wanted: float | None, verdict: str) -> None:
    row = Row("int8", load, {"flover": own, "llama.cpp": 100.0, "openvino": 90.0 if load is EIGHT else 110.0}, wanted)
    assert row.best == "llama.cpp"
    assert row.ratio == own / 100
    assert row.verdict == verdict


def test_alone_there_is_no_ratio() -> None:
    assert Row("int8", EIGHT, {"flover": 1.0}).best is None
    assert Row("int8", EIGHT, {"flover": 1.0}).verdict == ""
    assert Row("int8", EIGHT, {"openvino": 1.0}, 2.0).verdict == ""


def test_the_table_and_the_facts_say_it_all() -> None:
    found = results(flover=[summary(200)], llama=[summary(250.5)])
    found.cells["int8", FIRST, "flover"] = [summary(ttft_ms=500)]
    found.cells["int8", FIRST, "openvino"] = [summary(ttft_ms=1000)]
    found.failures.append(Failure("openvino", "int8", "n = 8", "gone"))
    lines = rows(found, {("int8", "ttft"): 0.4})
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(table("title", found, lines))
    text = console.export_text()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert cells == [
        ["int8", "int8", "q8_0", "int8", "", "", ""],
        ["n = 8", "200.0", "250.5", "-", "llama.cpp 0.80", "", "LOST"],
        ["TTFT of 512", "500 ms", "-", "1,000 ms", "openvino 0.50", "0.4", "short"],
    ]
    assert losses(lines) == [
        "LOST: int8, n = 8: 0.80 of llama.cpp",
        "short: int8, TTFT of 512: 0.50 of openvino, wanted 0.4",
    ]
    told = json.loads(json.dumps(tidy(facts(found, lines))))
    assert told["rows"][0]["medians"] == {"flover": 200.0, "llama.cpp": 250.5}
    assert told["rows"][0]["engines"]["llama.cpp"]["form"] == "q8_0"
    assert told["rows"][1]["medians"]["flover"] == 0.5
    assert told["rows"][1]["verdict"] == "short"
    assert told["failures"][0]["message"] == "gone"


def test_runs_that_differ_too_much_are_said_to_be_noisy() -> None:
    found = results(
        flover=[summary(100), summary(125), summary(110)], llama=[summary(21.2), summary(33.4), summary(130.5)]
    )
    found.cells["int8", FIRST, "openvino"] = [summary(ttft_ms=500), summary(ttft_ms=700)]
    lines = rows(found, {})
    assert [sorted(row.noisy) for row in lines] == [["llama.cpp"], ["openvino"]]
    assert noise(lines) == [
        "noisy, measure again: int8, n = 8: llama.cpp 21.2 to 130.5",
        "noisy, measure again: int8, TTFT of 512: openvino 500 ms to 700 ms",
    ]
    assert [row["noisy"] for row in facts(found, lines)["rows"]] == [["llama.cpp"], ["openvino"]]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(table("title", found, lines))
    assert console.export_text().count("noisy") == 2


def test_wanted_ratios_are_read_and_checked() -> None:
    options = RivalOptions()
    assert parse_wanted(("int8:32=2.0", "int4:ttft=.7"), options) == {("int8", "32"): 2.0, ("int4", "ttft"): 0.7}
    for word in ("int8:32", "int8:32=x", "int8:32=0", "int8:32=nan", "int8:32=inf"):
        with pytest.raises(ConfigError, match="--wanted takes FORMAT:LOAD=RATIO"):
            parse_wanted((word,), options)
    for word in ("int8:31=2", "float32:8=2", "int8=2", "=2"):
        with pytest.raises(ConfigError, match="not measured"):
            parse_wanted((word,), options)


def options_of(*words: str) -> RivalOptions:
    return rival_options(make_parser("bench").parse_args(["bench", "rivals", *words]))


def test_the_command_line_asks_for_what_it_says() -> None:
    assert options_of() == RivalOptions()
    asked = options_of("--only", "openvino,llama.cpp", "--formats", "int4", "--concurrency", "4", "4", "--seeds", "1")
    assert asked.only == ("openvino", "llama.cpp")
    assert [load.label for load in asked.loads] == ["n = 4", "TTFT of 512"]
    assert [load.key for load in options_of("--ttft-prompt-len", "0").loads] == ["1", "8", "32"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "llama"], "--only knows"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--concurrency", "0"], "--concurrency must be at least 1"),
        (["--output-len", "1"], "--output-len must be at least 2"),
        (["--prompt-len", "0"], "--prompt-len must be at least 1"),
        (["--patience", "0"], "--patience must be more than 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options_of(*words)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "source", read_config(PRESETS["llama-213m"])[1], tmp_path)


def program(path: Path, code: str) -> str:
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_rivals_that_are_not_there_are_skipped_with_a_word(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    bare = program(tmp_path / "bare-python", "raise SystemExit('importlib.metadata.PackageNotFoundError: no')")
    nowhere = str(tmp_path / "no-python")
    places = Places(openvino_python=bare, vllm_python=bare, transformers_python=nowhere)
    found = find_rivals(places, RivalOptions(), files, PLAIN)
    assert found.rivals == []
    assert found.skipped["llama.cpp"] == "llama-server was not found (set --llama-server)"
    assert found.skipped["openvino"] == f"openvino-genai is not installed in {bare} (--openvino-python)"
    assert found.skipped["vllm"] == f"vllm is not installed in {bare} (--vllm-python)"
    assert "no-python" in found.skipped["transformers"]


def test_rivals_that_are_there_are_found_in_the_order_that_was_asked(files: Files, tmp_path: Path) -> None:
    server = program(tmp_path / "llama-server", "import sys; print('version: 7 (abc)', file=sys.stderr)")
    python = program(tmp_path / "python", "import sys; print('version: 1.2 of', sys.argv[-1])")
    places = Places(
        llama_server=server,
        llama_args=("--poll", "0"),
        ik_llama_server=server,
        openvino_python=python,
        vllm_python=python,
    )
    options = RivalOptions(only=("openvino", "llama.cpp", "ik_llama.cpp", "vllm"))
    found = find_rivals(places, options, files, PLAIN)
    assert found.skipped == {}
    assert [(rival.name, rival.version) for rival in found.rivals] == [
        *(
            ("openvino", "1.2 of openvino-genai"),
            ("llama.cpp", "7 (abc)"),
            ("ik_llama.cpp", "7 (abc)"),
            ("vllm", "1.2 of vllm"),
        )
    ]
    assert found.rivals[1].command("int8", EIGHT)[-2:] == ("--poll", "0")


def test_a_server_that_cannot_run_says_why(files: Files, tmp_path: Path) -> None:
    broken = program(tmp_path / "llama-server", "raise SystemExit('libllama.so is missing')")
    found = find_rivals(Places(llama_server=broken), RivalOptions(only=("llama.cpp",)), files, PLAIN)
    assert "ended with code 1: libllama.so is missing" in found.skipped["llama.cpp"]


def test_commands_give_everybody_the_cores_and_the_room(files: Files) -> None:
    llama = " ".join(LlamaCpp(files, PLAIN, "llama-server", None).command("int8", EIGHT))
    assert "--threads 2 --threads-batch 2 --parallel 8 --ctx-size 2048 --cont-batching" in llama
    assert "source-q8_0.gguf" in llama
    fork = " ".join(IkLlamaCpp(files, PLAIN, "llama-server", None).command("int8", EIGHT))
    assert "--run-time-repack" in fork and "--no-webui" not in fork and "--no-webui" in llama
    first = " ".join(LlamaCpp(files, PLAIN, "llama-server", None).command("int8", FIRST))
    assert "--parallel 1 --ctx-size 768" in first
    openvino = OpenVino(files, PLAIN, "python", None, 32 * 128)
    assert openvino.command("int4", EIGHT)[2:4] == ("openvino", str(files.directory / "source-openvino-int4"))
    assert openvino.command("int4", EIGHT) == openvino.command("int4", FIRST)
    ours = Flover(files, None, ("--num-threads=1",))
    assert ours.command("int8", EIGHT)[4:8] == (str(files.source), "--skip-tokenizer-init", "--quantization", "int8")
    assert ours.command("bfloat16", EIGHT)[6:9] == ("--dtype", "bfloat16", "--num-threads=1")
    static = [kind(files, PLAIN, "python", None) for kind in (Transformers, OnnxRuntime, CTranslate2)]
    for rival in (Vllm(files, PLAIN, "python", None, 32), *static, ours):
        assert PORT in rival.command("float32", EIGHT)


def test_sixteen_bits_are_what_the_machine_is_good_at(files: Files) -> None:
    assert Transformers(files, PLAIN, "python", None).forms["bfloat16"] == "float32"
    assert Transformers(files, SIXTEEN, "python", None).forms["bfloat16"] == "bfloat16"
    assert LlamaCpp(files, PLAIN, "llama-server", None).forms["bfloat16"] == "f16"
    assert LlamaCpp(files, SIXTEEN, "llama-server", None).forms["bfloat16"] == "bf16"
    assert "int8" not in Vllm(files, SIXTEEN, "python", None, 1).forms


def test_a_library_that_lies_beside_llama_server_is_found(files: Files, tmp_path: Path) -> None:
    (tmp_path / "libllama.so").touch()
    rival = LlamaCpp(files, PLAIN, str(tmp_path / "llama-server"), None)
    assert rival.program == ("env", f"LD_LIBRARY_PATH={tmp_path}", str(tmp_path / "llama-server"))


def test_files_are_made_again_when_the_weights_are_younger(files: Files) -> None:
    files.source.mkdir()
    weights, made = files.source / "model.safetensors", files.other("f16.gguf")
    weights.touch()
    assert not files.is_fresh(made)
    made.touch()
    os.utime(weights, (1000, 1000))
    os.utime(made, (1001, 1001))
    assert files.is_fresh(made)
    os.utime(weights, (1002, 1002))
    assert not files.is_fresh(made)
