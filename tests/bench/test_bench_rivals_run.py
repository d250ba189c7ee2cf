"""Rivals run whole: servers that are scripts, the wrapper's door with a made-up engine."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flover_benchmarks.rivals.engines import PORT, WRAPPER, Command, Files, OpenVino
from flover_benchmarks.rivals.engines import RivalMachine as Cores
from flover_benchmarks.rivals.model import write_model
from flover_benchmarks.rivals.options import RivalLoad, RivalOptions
from flover_benchmarks.rivals.run import Contest, Server, ServerPool, check_prompts, in_turn, measure, sends_of

from flover.bench.client import Client
from flover.bench.metrics import RequestRecord
from flover.bench.presets import PRESETS
from flover.errors import EngineError
from flover.model.hf_config import read_model_directory

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "head_dim": 16,
    "vocab_size": 300,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
IDS = (200, 299)
GENAI = """
import time
from enum import Enum
class SchedulerConfig: pass
class GenerationConfig: pass
class GenerationStatus(Enum):
    RUNNING = 0
    FINISHED = 1
    IGNORED = 2
class Handle:
    def __init__(self, ids, config):
        self.ids, self.left, self.out = ids, config.max_new_tokens, []
        self.config = config
    def can_read(self): return bool(self.out)
    def read(self):
        found, self.out = self.out, []
        return {0: type("Output", (), {"generated_ids": found})()}
    def get_status(self):
        if len(self.ids) == 11:
            return GenerationStatus.IGNORED
        return GenerationStatus.RUNNING if self.left else GenerationStatus.FINISHED
class ContinuousBatchingPipeline:
    def __init__(self, model, scheduler, device, settings):
        assert settings == {"INFERENCE_NUM_THREADS": 3} and scheduler.cache_size == 2, settings
        assert not scheduler.enable_prefix_caching and scheduler.dynamic_split_fuse
        self.handles = []
    def add_request(self, number, ids, config):
        assert config.ignore_eos and not config.do_sample
        if len(ids) == 7:
            raise ValueError("seven")
        self.handles.append(Handle(ids, config))
        return self.handles[-1]
    def step(self):
        for handle in self.handles:
            if len(handle.ids) == 9:
                raise RuntimeError("nine breaks it")
            if handle.left:
                handle.left -= 1
                handle.out.append(sum(handle.ids) + handle.left)
        time.sleep(0.01)
"""


def quiet(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of modules that stand for OpenVINO's."""
    path = tmp_path_factory.mktemp("engine")
    (path / "openvino_genai.py").write_text(GENAI)
    (path / "openvino.py").write_text("def Tensor(array): return array[0].tolist()\n")
    return path


def wrapper(engine: Path) -> Command:
    words = (sys.executable, str(WRAPPER), "openvino", "nothing", "--port", PORT, "--threads", "3", "--cache-gb", "2")
    return ("env", f"PYTHONPATH={engine}", *words)


async def ids_of(url: str, bodies: list[dict[str, Any]]) -> list[list[int]]:
    """The token ids of every answer, all asked at once."""
    import aiohttp

    async def one(session: aiohttp.ClientSession, body: dict[str, Any]) -> list[int]:
        async with session.post(url + "/v1/completions", json={**body, "stream": True}) as response:
            lines = [line[6:] async for line in response.content if line.startswith(b"data: {")]
            choices = [choice for line in lines for choice in json.loads(line)["choices"]]
            return [token for choice in choices for token in choice["token_ids"]]

    async with aiohttp.ClientSession() as session:
        return list(await asyncio.gather(*(one(session, body) for body in bodies)))


def test_the_wrapper_streams_what_the_engine_brings(engine: Path) -> None:
    with Server(wrapper(engine), 30) as server:
        load = RivalLoad(3, 4, 12)
        sends = sends_of(load, 1, IDS)
        summary = asyncio.run(measure(server.url, sends, 4, 30))
        assert (summary.completed, summary.output_tokens, summary.prompt_tokens) == (3, 36, 12)
        assert summary.itl.p50 > 9
        answers = asyncio.run(ids_of(server.url, [send.body for send in sends]))
        assert answers == [[sum(send.body["prompt"]) + left for left in range(11, -1, -1)] for send in sends]


def test_the_wrapper_says_what_went_wrong(engine: Path) -> None:
    async def ask(url: str, prompt_len: int, output_len: int) -> RequestRecord:
        (send,) = sends_of(RivalLoad(1, prompt_len, output_len), 0, IDS)
        async with Client(url, timeout=20) as client:
            return await client.stream(send)

    with Server(wrapper(engine), 30) as server:
        assert "seven" in str(asyncio.run(ask(server.url, 7, 2)).error)
        assert "not enough memory" in str(asyncio.run(ask(server.url, 11, 6)).error)
        assert asyncio.run(ask(server.url, 4, 3)).ok
        broken = asyncio.run(ask(server.url, 9, 2))
        assert broken.error
        assert "Timeout" not in broken.error
        with pytest.raises(EngineError):
            asyncio.run(measure(server.url, sends_of(RivalLoad(1, 4, 2), 0, IDS), 4, 5))


@dataclass
class Script:
    """A rival that is the wrapper with the made-up engine, or whatever `words` start."""

    name: str
    words: Command
    forms: Mapping[str, str] = field(default_factory=lambda: {"int8": "q8"})
    version: str | None = None
    trouble: str = ""
    restarts: bool = False
    prepared: list[str] = field(default_factory=list)

    def prepare(self, kind: str, progress: Any) -> None:
        self.prepared.append(kind)
        if self.trouble:
            raise EngineError(self.trouble)

    def command(self, kind: str, load: RivalLoad) -> Command:
        return (*self.words, *(("--dtype", load.key) if self.restarts else ()))


OPTIONS = RivalOptions(
    formats=("int8", "int4"), concurrency=(1, 3), prompt_len=4, output_len=12, ttft_prompt_len=6, seeds=2, patience=15
)
DEAD = (sys.executable, "-c", "print('first words'); print('cannot load the model'); raise SystemExit(3)")


def test_everybody_is_measured_and_who_fails_is_reported(engine: Path) -> None:
    says: list[tuple[str, int, int]] = []
    contenders = [
        Script("flover", wrapper(engine), {"int8": "int8", "int4": "int4"}),
        Script("good", wrapper(engine), restarts=True),
        Script("dead", DEAD),
        Script("unprepared", wrapper(engine), trouble="no files"),
    ]
    results = Contest(contenders, OPTIONS, 300, lambda *said: says.append(said)).run()
    measured = {(kind, load.key, name): len(found) for (kind, load, name), found in results.cells.items()}
    loads = ("1", "3", "ttft")
    assert measured == {
        **{("int8", load, name): 2 for load in loads for name in ("flover", "good")},
        **{("int4", load, "flover"): 2 for load in loads},
    }
    assert {(failure.name, failure.kind, failure.load) for failure in results.failures} == {
        *(("dead", "int8", "n = 1"), ("unprepared", "int8", None))
    }
    (dead,) = [failure.message for failure in results.failures if failure.name == "dead"]
    assert "ended with code 3" in dead
    assert "cannot load the model" in dead
    assert contenders[1].prepared == ["int8"]
    assert set(results.ready_s) == {("int8", "flover"), ("int8", "good"), ("int4", "flover")}
    assert results.forms["int8", "good"] == "q8"
    turns = [said.split(": ")[1] for said, _, _ in says if said.startswith("int8, n = 3") and " of " in said]
    assert turns == ["flover, 1 of 2", "good, 1 of 2", "good, 2 of 2", "flover, 2 of 2"]
    assert all(done <= total for _, done, total in says)


def test_a_server_that_breaks_in_the_middle_leaves_the_others_alone(engine: Path) -> None:
    options = RivalOptions(
        formats=("int8",), concurrency=(2,), prompt_len=9, output_len=4, ttft_prompt_len=0, seeds=1, patience=10
    )
    results = Contest([Script("breaks", wrapper(engine))], options, 300, quiet).run()
    assert results.cells == {}
    (failure,) = results.failures
    assert (failure.name, failure.load) == ("breaks", "n = 2")
    assert "request 0 failed" in failure.message


def test_everybody_begins_once() -> None:
    assert [in_turn(["a", "b", "c"], seed) for seed in range(4)] == [
        *(["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"])
    ]


def test_prompts_differ_from_seed_to_seed_and_not_from_engine_to_engine() -> None:
    load = RivalLoad(4, 8, 8)
    bodies = [[send.body["prompt"] for send in sends_of(load, seed, IDS)] for seed in (1, 1, 2)]
    assert bodies[0] == bodies[1]
    assert not {tuple(prompt) for prompt in bodies[0]} & {tuple(prompt) for prompt in bodies[2]}


def test_other_prompts_than_were_sent_are_no_result() -> None:
    with pytest.raises(EngineError, match="request 0: the server counts 65 prompt tokens of 64"):
        check_prompts([RequestRecord(sent=0.0, prompt_tokens=65)], 64)


def gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_fleet_keeps_what_is_the_same_and_stops_what_is_not(engine: Path) -> None:
    with ServerPool(30) as fleet:
        first, seconds = fleet.server("a", wrapper(engine))
        assert seconds is not None
        assert fleet.server("a", wrapper(engine)) == (first, None)
        other, _ = fleet.server("b", wrapper(engine))
        again, seconds = fleet.server("a", (*wrapper(engine), "--dtype", "x"))
        assert seconds is not None
        assert gone(first.pid)
        assert not gone(other.pid)
        pids = [other.pid, again.pid]
    assert all(map(gone, pids))


@pytest.mark.long
def test_sigterm_takes_the_fleet_along_after_a_restart(engine: Path) -> None:
    code = (
        "from flover_benchmarks.rivals.run import ServerPool\nimport time\n"
        f"words = {wrapper(engine)!r}\n"
        "with ServerPool(30) as fleet:\n"
        "    fleet.server('a', words)\n"
        "    b, _ = fleet.server('b', words)\n"
        "    a, _ = fleet.server('a', (*words, '--dtype', 'x'))\n"
        "    fleet.stop('a')\n"
        "    print(b.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGTERM)
        assert owner.wait(timeout=30) == 128 + signal.SIGTERM
    deadline = time.monotonic() + 5
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


def test_an_export_is_made_once_and_its_last_words_are_told(tmp_path: Path) -> None:
    write_model(PRESETS["llama-213m"] | SMALL, tmp_path / "model", seed=0, progress=quiet)
    files = Files(tmp_path / "model", read_model_directory(tmp_path / "model")[1], tmp_path)
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\nwords = sys.argv[1:]\n"
        "if 'int4' in words: raise SystemExit('nncf is not installed')\n"
        "out = pathlib.Path(words[-1]); out.mkdir(); (out / 'openvino_model.bin').write_text(' '.join(words))\n"
    )
    python.chmod(0o755)
    rival = OpenVino(files, Cores(2, frozenset()), str(python), None, 100)
    rival.prepare("int8", quiet)
    made = tmp_path / "model-openvino-int8" / "openvino_model.bin"
    assert f"--model {files.source} --task text-generation-with-past --weight-format int8" in made.read_text()
    made.write_text("still here")
    rival.prepare("int8", quiet)
    assert made.read_text() == "still here"
    with pytest.raises(EngineError, match="optimum_cli ended with code 1: nncf is not installed"):
        rival.prepare("int4", quiet)


@pytest.mark.long
def test_the_command_runs_whole_on_a_small_model(tmp_path: Path) -> None:
    write_model(PRESETS["llama-213m"] | SMALL, tmp_path / "small", seed=0, progress=quiet)
    words = ["--only=transformers,llama.cpp,openvino", "--formats", "float32", "int8", "--concurrency", "2"]
    words += ["--prompt-len=8", "--output-len=6", "--ttft-prompt-len=32", "--seeds=1", "--num-threads=1"]
    words += ["--llama-server=nowhere", f"--models={tmp_path / 'models'}", "--kv-cache-memory-bytes=32MiB"]
    command = [sys.executable, "-m", "flover", "bench", "rivals", str(tmp_path / "small"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert [(row["weights"], sorted(row["medians"])) for row in line["rows"]] == [
        *[("float32", ["flover", "transformers"])] * 2,
        *[("int8", ["flover"])] * 2,
    ]
    for row in line["rows"]:
        assert all(value > 0 for value in row["medians"].values())
    assert line["rows"][0]["verdict"] == ("LOST" if line["rows"][0]["ratio"] < 1 else "")
    assert set(line["skipped"]) == {"llama.cpp", "openvino"}
    assert line["failures"] == []
    assert "llama.cpp was left out: nowhere was not found (set --llama-server)" in done.stdout
    assert "transformers was left out of int8: it has no such weight format" in done.stdout
    assert "TTFT of 32" in done.stdout
