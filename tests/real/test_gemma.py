"""Gemma 3 270M in Q4_K_M against transformers' float32 of the same weights, and what its arithmetic costs."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
import transformers
from flover_benchmarks.accuracy import STORED_VARIANTS, measure_accuracy, score
from flover_benchmarks.documents import find_documents
from flover_benchmarks.options import AccuracyOptions
from flover_benchmarks.recast import Recast
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from flover.config import EngineConfig
from flover.llm.llm import LLM
from flover.memory.kvcache import KVCache
from flover.model.describe import describe_model
from flover.model.load import load_described
from flover.model.shard import Shard
from flover.ops.cpu import cpu_ops
from flover.request import SamplingParams
from flover.source import open_source
from flover.text.tokenizer import Tokenizer
from real.texts import PROMPTS, public_text

pytestmark = pytest.mark.timeout(3600)
TOKENS = 16
PERPLEXITY_TOKENS = 20_000
Record = Callable[[str, Any], None]


@pytest.fixture(scope="module")
def float32(gemma: Path) -> Iterator[Any]:
    """transformers' model of the dequantized weights. (Its `from_pretrained` does the same, but needs accelerate.)"""
    config = transformers.AutoConfig.from_pretrained(gemma.parent, gguf_file=gemma.name)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(str(gemma), return_tensors=True, model_to_load=model)["tensors"]
    kept = model.load_state_dict(tensors, strict=False)
    assert (kept.missing_keys, kept.unexpected_keys) == (["lm_head.weight"], [])
    model.tie_weights()
    with torch.inference_mode():
        yield model.eval()


@pytest.fixture(scope="module")
def continued(gemma: Path, float32: Any) -> list[tuple[list[int], list[int], torch.Tensor]]:
    """Ids of each prompt, its greedy continuation, and the log-probabilities [TOKENS, vocab] on the way."""
    tokenizer = Tokenizer.load(gemma)
    found = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        out = float32.generate(
            torch.tensor([ids]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False, top_k=None, top_p=None,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        scores = torch.cat(out.logits).log_softmax(-1)
        found.append((ids, out.sequences[0, len(ids) :].tolist(), scores))
    return found


def test_token_ids_are_those_of_transformers(gemma: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(gemma.parent, gguf_file=gemma.name)
    ours = Tokenizer.load(gemma)
    # Of runs of spaces, which are user-defined tokens, SentencePiece takes the longest, transformers' converter not.
    for text in [
        *PROMPTS,
        *public_text(40_000).replace("  ", "").split("\n\n"),
        "a<bos>b <unused5>",
        "a tab\t\n",
        "🦊é\u0301",
    ]:
        assert ours.encode(text) == theirs(text)["input_ids"], text


def test_float32_arithmetic_is_transformers(
    gemma: Path, continued: list[tuple[list[int], list[int], torch.Tensor]], record_property: Record
) -> None:
    """Loader, families, norms, windows and rotary embeddings are right: the same tokens, almost the same numbers."""
    settings = EngineConfig(model=str(gemma), dtype="float32")
    model = describe_model(settings, Shard(0, 1), source=Recast(open_source(gemma)))
    loaded = load_described(model, cpu_ops("auto", 2), lambda done, total: None)
    worst = 0.0
    for ids, following, theirs in continued:
        kv = KVCache(loaded.config, 20, 16, "float32", loaded.decoder.ops.page_shapes)
        ours = score(loaded.decoder, kv, [*ids, *following[:-1]])[len(ids) - 1 :].log_softmax(-1)
        assert ours.argmax(-1).tolist() == following
        worst = max(worst, float((ours - theirs).abs().max()))
    record_property("largest difference of a log-probability, float32 arithmetic", worst)
    assert worst < 1e-3


def test_the_files_own_arithmetic_is_near(
    gemma: Path, continued: list[tuple[list[int], list[int], torch.Tensor]], record_property: Record
) -> None:
    """All prompts in one batch through the engine. Activations have 8 bits there, so that numbers differ."""
    differences, firsts = [], []
    with LLM(str(gemma)) as llm:
        prompts = [{"prompt_token_ids": [*ids, *following]} for ids, following, _ in continued]
        outputs = llm.generate(prompts, SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1))
    for output, (ids, following, theirs) in zip(outputs, continued, strict=True):
        for at, token in enumerate(following):
            found = output.prompt_logprobs[len(ids) + at][token]
            differences.append(abs(found.logprob - float(theirs[at, token])))
            firsts.append(found.rank == 1)
    record_property("mean difference of a log-probability, the file's arithmetic", mean(differences))
    record_property("share of the same first choices, the file's arithmetic", mean(firsts))
    assert mean(differences) < 0.06
    assert mean(firsts) > 0.93


def test_tokens_are_those_of_llama_cpp(
    gemma: Path,
    float32: Any,
    continued: list[tuple[list[int], list[int], torch.Tensor]],
    llama_cpp: Path,
    record_property: Record,
) -> None:
    """Along llama.cpp's own greedy continuations: whether Flover would choose the same, and whose numbers are nearer to
    those of float32. Both compute with activations in 8 bits."""
    prompts = [ids for ids, _, _ in continued]
    asked = json.dumps({"model": str(gemma), "prompts": prompts, "tokens": TOKENS})
    command, path = [sys.executable, str(Path(__file__).with_name("llama_cpp.py"))], {"PYTHONPATH": str(llama_cpp)}
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, env=path, text=True, check=True)
    theirs = json.loads(done.stdout)
    with LLM(str(gemma)) as llm:
        whole = [
            {"prompt_token_ids": [*ids, *(token for token, _ in found)]}
            for ids, found in zip(prompts, theirs, strict=True)
        ]
        outputs = llm.generate(whole, SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1))
    firsts, apart, our_errors, their_errors = [], [], [], []
    for output, ids, found in zip(outputs, prompts, theirs, strict=True):
        assert len(found) == TOKENS
        following = [token for token, _ in found]
        exact = float32(torch.tensor([[*ids, *following]])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        for at, (token, logprob) in enumerate(found):
            ours, truth = output.prompt_logprobs[len(ids) + at][token], float(exact[at, token])
            firsts.append(ours.rank == 1)
            apart.append(abs(ours.logprob - logprob))
            our_errors.append(abs(ours.logprob - truth))
            their_errors.append(abs(logprob - truth))
    record_property("share of llama.cpp's tokens that Flover chooses", mean(firsts))
    record_property("mean difference of a log-probability from llama.cpp's", mean(apart))
    record_property("mean difference from float32's: Flover", mean(our_errors))
    record_property("mean difference from float32's: llama.cpp", mean(their_errors))
    assert mean(firsts) > 0.9
    assert mean(apart) < 0.08
    assert mean(our_errors) < 1.25 * mean(their_errors)


def test_perplexity_is_that_of_float32(gemma: Path, tmp_path: Path, record_property: Record) -> None:
    (tmp_path / "text").write_text(public_text(120_000), encoding="utf-8")
    options = AccuracyOptions(str(tmp_path / "text"), PERPLEXITY_TOKENS, 1000)
    documents = find_documents(gemma, options, 262_144, 32_768, dummy=False)
    assert documents.num_tokens > PERPLEXITY_TOKENS - 2
    stored = STORED_VARIANTS[0]
    config = EngineConfig(model=str(gemma))
    found = measure_accuracy(config, documents.ids, 2, lambda *_: None, is_text=True, variants=[stored])[stored.name]
    for name, value in (("perplexity", found.perplexity), ("change", found.change), ("mean KL", found.mean_kl)):
        record_property(f"{name} over {found.tokens} tokens", value)
    record_property("share of the same first choices over them", found.agreement)
    assert abs(found.change) < 0.005


def test_a_server_is_ready_soon_and_takes_little_memory(gemma: Path, record_property: Record) -> None:
    """Memory of server and engine together, from the start to the end of one answer: what they hold alone may be the
    file's size and 150 MB. Files that they map (libraries, the model) are not in it: the system takes such memory back.
    A machine that does other things needs longer, so that time is not a limit here."""
    command = [sys.executable, "-m", "flover", "serve", str(gemma), "--port", "0"]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    most, ended = Counter[str](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            total = memory(process.pid)
            most["anonymous"] = max(most["anonymous"], total["Pss_Anon"])
            most["all"] = max(most["all"], total["Pss"])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("ready: "))
        record_property("seconds until ready", time.monotonic() - began)
        ask(line.split()[1])
    finally:
        ended.set()
        watching.join()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    for name, value in most.items():
        record_property(f"MB at the peak of {name} memory", value / 1e6)
    assert gemma.stat().st_size < most["anonymous"] < gemma.stat().st_size + 150e6


def ask(url: str) -> None:
    body = json.dumps({"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert "France" in json.load(answer)["choices"][0]["text"]


def memory(pid: int) -> Counter[str]:
    """Bytes of the process and its children by kind, as /proc/*/smaps_rollup names them."""
    total = Counter[str]()
    with contextlib.suppress(OSError):  # one is just beginning or ending
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            kind, size = line.split(":")
            total[kind] += int(size.split()[0]) * 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += memory(int(child))
    return total
