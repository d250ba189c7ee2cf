"""Rivals with static batches: made-up engines behind the wrapper, their exports, and transformers for real."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.test_bench_rivals_run import IDS, SMALL, ids_of, quiet
from flover_benchmarks.rivals.engines import PORT, WRAPPER, Files
from flover_benchmarks.rivals.engines import RivalMachine as Cores
from flover_benchmarks.rivals.model import write_model
from flover_benchmarks.rivals.options import RivalLoad
from flover_benchmarks.rivals.run import Server, sends_of
from flover_benchmarks.rivals.static import CTranslate2, OnnxRuntime
from transformers import AutoModelForCausalLM

from flover.bench.presets import PRESETS
from flover.errors import EngineError
from flover.model.hf_config import read_model_directory

ONNXRUNTIME = """
import json
import numpy
class Config:
    def __init__(self, path): assert path.endswith("made")
    def overlay(self, text):
        assert json.loads(text)["model"]["decoder"]["session_options"]["intra_op_num_threads"] == 3
class Model:
    def __init__(self, config): pass
class GeneratorParams:
    def __init__(self, model): pass
    def set_search_options(self, **options):
        self.options = options
        assert not options["do_sample"] and options["min_length"] == options["max_length"]
class Generator:
    def __init__(self, model, params): self.options = params.options
    def append_tokens(self, ids):
        assert ids.shape[0] == self.options["batch_size"]
        self.sums, self.length = ids.sum(axis=1), ids.shape[1]
    def is_done(self): return self.length == self.options["max_length"]
    def generate_next_token(self): self.sums, self.length = self.sums + 1, self.length + 1
    def get_next_tokens(self): return self.sums
"""
CTRANSLATE2 = """
class Result:
    def __init__(self, batch_id, token_id): self.batch_id, self.token_id = batch_id, token_id
class Generator:
    def __init__(self, path, device, compute_type, inter_threads, intra_threads):
        assert (device, compute_type, intra_threads) == ("cpu", "int8", 3)
    def generate_batch(self, prompts, max_length, min_length, callback, **options):
        assert max_length == min_length and options["sampling_topk"] == 1
        for i in range(max_length):
            for row, prompt in enumerate(prompts):
                callback(Result(row, sum(int(name[1:]) for name in prompt) + 1 + i))
"""


@pytest.mark.parametrize(
    ("name", "module", "code"),
    [("onnxruntime", "onnxruntime_genai", ONNXRUNTIME), ("ctranslate2", "ctranslate2", CTRANSLATE2)],
)
def test_static_batches_answer_each_request_with_its_own_tokens(
    name: str, module: str, code: str, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text(code)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "vocabulary.json").write_text(str([f"t{i}" for i in range(300)]).replace("'", '"'))
    words = (name, str(tmp_path / "made"), "--port", PORT, "--threads", "3", "--dtype", "int8")
    sends = [*sends_of(RivalLoad(3, 4, 12), 1, IDS), *sends_of(RivalLoad(1, 6, 5), 2, IDS)]
    with Server(("env", f"PYTHONPATH={tmp_path}", sys.executable, str(WRAPPER), *words), 30) as server:
        answers = asyncio.run(ids_of(server.url, [send.body for send in sends]))
    for send, answer in zip(sends, answers, strict=True):
        assert answer == [sum(send.body["prompt"]) + 1 + i for i in range(send.body["max_tokens"])]


@pytest.mark.parametrize(
    ("kind", "weights", "words"),
    [
        (OnnxRuntime, "model.onnx.data", "-p int8"),
        (CTranslate2, "model.bin", "--quantization int8"),
    ],
)
def test_their_own_tools_export_the_model(kind: Any, weights: str, words: str, tmp_path: Path) -> None:
    write_model(PRESETS["llama-213m"] | SMALL, tmp_path / "model", seed=0, progress=quiet)
    files = Files(tmp_path / "model", read_model_directory(tmp_path / "model")[1], tmp_path)
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\nout = pathlib.Path(sys.argv[-1]); out.mkdir()\n"
        f"(out / 'words').write_text(' '.join(sys.argv))\n"
        f"if 'float32' not in sys.argv and 'fp32' not in sys.argv: (out / '{weights}').touch()\n"
    )
    python.chmod(0o755)
    rival = kind(files, Cores(2, frozenset()), str(python), None)
    rival.prepare("int8", quiet)
    made = tmp_path / f"model-{rival.name}-int8"
    assert words in (made / "words").read_text()
    assert str(made) in rival.command("int8", RivalLoad(1, 4, 4))
    with pytest.raises(EngineError, match=f"wrote no {weights}"):
        rival.prepare("float32", quiet)


@pytest.mark.long
def test_transformers_behind_the_wrapper_says_what_it_says_alone(tmp_path: Path) -> None:
    write_model(PRESETS["llama-213m"] | SMALL, tmp_path / "model", seed=2, progress=quiet)
    words = ("transformers", str(tmp_path / "model"), "--port", PORT, "--threads", "1")
    sends = [
        *sends_of(RivalLoad(2, 9, 8), 4, IDS),
        *sends_of(RivalLoad(1, 5, 6), 5, IDS),
    ]  # lengths that must be padded
    with Server((sys.executable, str(WRAPPER), *words), 120) as server:
        answers = asyncio.run(ids_of(server.url, [send.body for send in sends]))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model").float()
    for send, answer in zip(sends, answers, strict=True):
        ids = send.body["prompt"]
        for token in answer:
            assert int(model(_batch(ids)).logits[0, -1].argmax()) == token
            ids = [*ids, token]
        assert len(answer) == send.body["max_tokens"]


def _batch(ids: list[int]) -> Any:
    import torch

    return torch.tensor([ids])
