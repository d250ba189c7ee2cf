"""Several ranks with a GPU each: the tokens of one CPU and of two, captured collectives, the same order on all ranks.
GPUs are fake and interpreted, Gloo is in NCCL's place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from gpu_engines import Capturing, on_gpu
from gpu_ranks import engine_of_ranks
from harness import alone, answer, assert_same, load, make, speculate_always, tokens
from quantized_files import WAYS, write_quantized
from support.checkpoints import VOCAB_SIZE, make_checkpoint, random_prompt

from flover.engine.loop import Engine
from flover.executor import cuda_executor
from flover.request import Delta, FinishReason, TokenLogprobs

LAYERS = 1
NGRAM = json.dumps({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3})
pytestmark = pytest.mark.gpu
WIDE: dict[str, Any] = {
    "num_hidden_layers": 1, "hidden_size": 64, "head_dim": 64, "intermediate_size": 256, "vocab_size": 64,
}  # fmt: skip
SMALL: dict[str, Any] = {"max_num_seqs": 2, "max_num_batched_tokens": 8, "max_model_len": 40, "block_size": 8}


def test_two_gpus_have_the_tokens_of_one_cpu_and_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrivals, chunks, a cancellation, a report on a prompt, draws and penalties, while iterations overlap; forwards
    are captured, and their collectives run again with them, in the same order on both ranks."""
    checkpoint = make_checkpoint(tmp_path, "llama", num_hidden_layers=LAYERS)
    asked = [
        make("a", random_prompt(1, 3), max_tokens=7, repetition_penalty=1.3),
        make("b", random_prompt(2, 11), max_tokens=4, prompt_logprobs=0, logprobs=None),
        make("c", random_prompt(3, 2), max_tokens=6, temperature=0.9, seed=3),
    ]
    arrivals = [(0, make("gone", random_prompt(5, 6), max_tokens=20)), *((3 * i, one) for i, one in enumerate(asked))]

    def cancel(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 4:
            engine.cancel("gone")

    engine = load(checkpoint, **SMALL)
    expected = {name: tokens(deltas) for name, deltas in answer(engine, arrivals, cancel).items() if name != "gone"}
    engine.close()
    with engine_of_ranks(checkpoint, monkeypatch, "cpu", **SMALL) as ranks:
        found = answer(ranks.engine, arrivals, cancel)
        assert {name: tokens(found[name]) for name in expected} == expected
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1), ((8,), 8)])
    with engine_of_ranks(checkpoint, monkeypatch, "cuda", async_scheduling=True, **SMALL) as ranks:
        assert not hasattr(ranks.engine._executor, "_executor"), "the leader overlaps by itself"
        first, second = ranks.nccl
        runs = ranks.platforms[0].graphs.runs
        assert len(runs) == 0 and [one.graphs.runs for one in ranks.platforms] == [[], []]
        seen = len(first.seen)
        found = answer(ranks.engine, arrivals, cancel)
        assert {name: tokens(found[name]) for name in expected} == expected
        assert len(runs) > 5
    assert first.seen == second.seen
    assert runs == ranks.platforms[1].graphs.runs
    # A generate step of one row: the embedding, two sums a layer, the logits, the token.
    width = -(-VOCAB_SIZE // 2) + 1
    hidden = first.seen[seen][2][1]
    step = [("sum", (1, hidden))] * (1 + 2 * LAYERS) + [("gather", (1, width)), ("sum", (1,))]
    named = [(kind, shape) for kind, _, shape in first.seen[seen:]]
    assert any(named[at : at + len(step)] == step for at in range(len(named)))
    assert first.aborted.is_set() and second.aborted.is_set()


def test_two_gpus_verify_proposals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many tokens a row gets rank 0 alone knows; the other one takes the newest over. Nothing is captured."""
    checkpoint = make_checkpoint(tmp_path, "llama", num_hidden_layers=LAYERS)
    speculate_always(monkeypatch)
    asked = make("a", random_prompt(1, 4) * 2, max_tokens=9, allowed_token_ids=[40, 41], logprobs=None)
    engine = load(checkpoint, **SMALL)
    expected = tokens(answer(engine, [(0, asked)])["a"])
    engine.close()
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    with engine_of_ranks(
        checkpoint, monkeypatch, "cuda", enforce_eager=True, speculative_config=NGRAM, **SMALL
    ) as ranks:
        assert tokens(answer(ranks.engine, [(0, asked)])["a"]) == expected
        assert ranks.engine.roster.counts["iterations"] < 9
    assert ranks.nccl[0].seen == ranks.nccl[1].seen


@pytest.mark.parametrize(
    ("family", "stored"),
    [
        *(("llama", "float32"), ("llama", "int8"), ("llama", "Q4_0"), ("llama", "fp8 blocks")),
        *(("gpt_oss", "float32"), ("mixtral", "int8"), ("mixtral", "fp8 blocks")),
    ],
)
def test_two_gpus_have_the_bits_of_one(
    family: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --batch-invariant tokens and log-probabilities of a crowd with preemption and a cancellation are those of
    each request alone on one GPU, to the last bit. Sums of eight, two and four segments; captured forwards."""
    checkpoint = make_checkpoint(tmp_path / "model", family, **WIDE)
    settings = {**SMALL, "max_num_seqs": 3, "block_size": 4, "async_scheduling": True, "batch_invariant": True}
    if stored == "Q4_0":
        checkpoint = write_gguf(checkpoint, tmp_path / "model.gguf", "llama", stored)
        settings["dtype"] = "float32"
    elif stored == "fp8 blocks":
        checkpoint, _ = write_quantized(checkpoint, tmp_path, WAYS[stored])
        settings["dtype"] = "float32"
    elif stored == "int8":
        settings["quantization"] = stored
    lens = 6, 14, 3
    asked = [make(str(place), random_prompt(place, length, 64), max_tokens=6) for place, length in enumerate(lens)]
    asked[1] = make("1", random_prompt(1, 14, 64), max_tokens=6, temperature=0.9, seed=3, prompt_logprobs=1)
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1), ((8,), 8)])
    engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=True, **settings)
    expected = alone(engine, asked)
    engine.close()
    monkeypatch.undo()
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1), ((8,), 8)])

    def cancel(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 6:
            engine.cancel("gone")

    page_bytes = 2 * 4 * 64 * 4  # of a rank, which has one key head of 64 numbers
    with engine_of_ranks(checkpoint, monkeypatch, "cuda", kv_cache_memory_bytes=8 * page_bytes, **settings) as ranks:
        arrivals = [
            (0, make("gone", random_prompt(6, 2, 64), max_tokens=20)),
            *((place, one) for place, one in enumerate(asked)),
        ]
        found = answer(ranks.engine, arrivals, cancel)
        assert ranks.engine.roster.counts["preemptions"] > 0
        assert len(ranks.platforms[0].graphs.runs) > 3
    assert found.pop("gone")[-1].finish_reason == FinishReason.ABORT
    assert_same(expected, found)
    assert all(len(tokens(deltas)) == 6 for deltas in found.values())
    for name, deltas in found.items():
        assert prompt_logprobs(deltas) == prompt_logprobs(expected[name])


def prompt_logprobs(deltas: list[Delta]) -> list[TokenLogprobs | None]:
    return [entry for delta in deltas for entry in delta.prompt_logprobs or []]
