"""Quantized models on the platform of a GPU: in a crowd with preemption and cancellations a request gets the tokens and
log-probabilities that it gets alone, to the last bit, while iterations overlap and forwards are captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from gpu_engines import Capturing, on_gpu
from harness import alone, answer, assert_same, make, tokens
from support.checkpoints import make_checkpoint, random_prompt

from flover.engine.loop import Engine
from flover.executor import cuda_executor
from flover.request import FinishReason

pytestmark = pytest.mark.gpu
SHAPE: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 64,
}
PAGE = 4
SETTINGS: dict[str, Any] = {
    "max_num_seqs": 3, "max_num_batched_tokens": 20, "max_model_len": 40, "block_size": PAGE, "async_scheduling": True,
}  # fmt: skip
LENS = 6, 17, 3
TOKENS = 7


@pytest.mark.parametrize("stored", ["int8", "int4", "Q4_0"])
def test_a_crowd_changes_no_bit(stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 16 tokens of a chunk have another tile than a generate step; a pool of eight pages is too small for all
    that run; one request is cancelled while its prompt is computed, and one while it generates."""
    settings = dict(SETTINGS)
    if stored == "Q4_0":
        plain = make_checkpoint(tmp_path / "model", "llama", **SHAPE)
        checkpoint = write_gguf(plain, tmp_path / "model.gguf", "llama", stored)
        settings["dtype"] = "float32"
    else:
        checkpoint = make_checkpoint(tmp_path / "model", "llama", **SHAPE)
        settings["quantization"] = stored
    asked = [make(str(number), random_prompt(number, one, 64), max_tokens=TOKENS) for number, one in enumerate(LENS)]
    asked[2] = make(
        "2", random_prompt(2, LENS[2], 64), seed=2, max_tokens=TOKENS, temperature=0.9, repetition_penalty=1.2
    )
    gone = (
        make("gone", random_prompt(5, 25, 64), max_tokens=4),
        make("gone later", random_prompt(6, 2, 64), max_tokens=30),
    )

    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    page_bytes = 2 * PAGE * 2 * 16 * 4
    engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=True, kv_cache_memory_bytes=9 * page_bytes, **settings)
    assert engine.roster.pool.total == 8
    expected = alone(engine, asked)
    assert engine.roster.counts["preemptions"] == 0
    assert all(len(tokens(deltas)) == TOKENS for deltas in expected.values())
    engine.reset_prefix_cache()
    before, first = len(Capturing.graphs.runs), engine.roster.counts["iterations"]

    def cancel(engine: Engine) -> None:
        if (step := engine.roster.counts["iterations"] - first) in (1, 9):
            engine.cancel("gone" if step == 1 else "gone later")

    arrivals = [(0, gone[0]), (0, asked[0]), (1, gone[1]), *((2 * number, asked[number]) for number in (1, 2))]
    found = answer(engine, arrivals, cancel)
    assert engine.roster.counts["preemptions"] > 0
    assert max(Capturing.graphs.runs[before:]) == 3
    engine.close()
    cancelled = found.pop("gone"), found.pop("gone later")
    assert [deltas[-1].finish_reason for deltas in cancelled] == [FinishReason.ABORT] * 2
    assert [len(tokens(deltas)) > 0 for deltas in cancelled] == [False, True]
    assert_same(expected, found)
