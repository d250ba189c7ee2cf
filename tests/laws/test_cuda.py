"""Whole engines on the platform of a GPU: the tokens of the CPU's own kernels, with and without asynchronous
scheduling. Tensors are the CPU's and kernels interpreted; with --on-gpu it is a GPU."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from gguf_files import write_gguf
from gpu_engines import Capturing, on_gpu
from harness import answer, load, logprobs, make, tokens
from quantized_files import WAYS, WIDE, write_quantized
from support.checkpoints import make_checkpoint, random_prompt
from support.constraints import MODEL, TOKENIZER, VOCABULARY

from flover.config import EngineConfig
from flover.engine.loop import Engine
from flover.executor import cuda_executor, cuda_memory, cuda_rows
from flover.executor.cuda import CudaPlatform
from flover.executor.cuda_executor import CudaExecutor
from flover.grammar.masks import MaskThread
from flover.grammar.state import GrammarState
from flover.memory.graph_sizes import warm_up_batches
from flover.model.describe import Description, describe_model
from flover.model.shard import Shard
from flover.ops import Group, Ops
from flover.ops.cuda import choose
from flover.ops.cuda.device import Fetched, Gpu, to_device
from flover.ops.cuda.quantized import QuantizedWeight
from flover.request import Delta, TokenLogprobs
from flover.structured_outputs import StructuredOutputsParams

pytestmark = pytest.mark.gpu


def counted_copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each copy to the device and from it, from now on."""
    copied: list[int] = []
    sent, fetched = to_device, Fetched

    def send(arrays: Any, device: Any) -> Any:
        copied.append(sum(array.nbytes for array in arrays.values()))
        return sent(arrays, device)

    def fetch(tensors: Any) -> Any:
        copied.append(sum(tensor.nbytes for tensor in tensors))
        return fetched(tensors)

    for module in (cuda_rows, cuda_executor, choose):
        monkeypatch.setattr(module, "arrays_to_device" if module is choose else "to_device", send)
    monkeypatch.setattr(cuda_executor, "Fetched", fetch)
    return copied


def told(deltas: list[Delta]) -> list[TokenLogprobs]:
    """Log-probabilities of the prompt and of the output."""
    return [entry for delta in deltas for entry in (delta.prompt_logprobs or [])[1:]] + logprobs(deltas)


def test_tokens_are_those_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrivals, a cancellation, a shared prefix, chunks; log-probabilities of prompts and outputs; draws,
    penalties and banned tokens."""
    checkpoint, shared = make_checkpoint(tmp_path, "llama"), random_prompt(8, 17)
    asked = [
        make("a", random_prompt(1, 3), max_tokens=8, repetition_penalty=1.3),
        make("b", [*shared, 5, 6], max_tokens=6, prompt_logprobs=0, logprobs=None),
        make("c", [*shared, 7, 8, 9], max_tokens=6, temperature=0.9, seed=3, logit_bias={7: 2.0}),
    ]
    arrivals = [(0, make("gone", random_prompt(5, 20), max_tokens=30)), *((4 * i, one) for i, one in enumerate(asked))]
    engine = load(checkpoint)
    expected = answer(engine, arrivals[1:])
    engine.close()

    def cancel(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 6:
            engine.cancel("gone")

    for overlaps in (False, True):
        engine = on_gpu(checkpoint, monkeypatch, async_scheduling=overlaps, max_num_batched_tokens=16, max_num_seqs=4)
        found = answer(engine, arrivals, cancel)
        assert found.pop("gone")
        assert {name: tokens(deltas) for name, deltas in found.items()} == {
            name: tokens(deltas) for name, deltas in expected.items()
        }
        for name, deltas in found.items():
            assert len(told(deltas)) == {"a": 8, "b": 18, "c": 6}[name]
            for one, other in zip(told(deltas), told(expected[name]), strict=True):
                assert (one.token_ids, one.ranks) == (other.token_ids, other.ranks)
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        engine.close()


ONE_LAYER = {**WIDE, "intermediate_size": 256, "num_hidden_layers": 1}


def of_llama_cpp(name: str) -> str:
    """The types of a file with several: values and output in another one, as llama.cpp mixes them."""
    return "Q6_K" if "attn_v" in name or name == "output.weight" else "Q4_K"


@pytest.mark.parametrize("stored", ["int4", "gptq act-order", "gguf", "experts", "int8 pages"])
def test_quantized_models_have_the_tokens_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    """Quantized while loading; inputs in the order of their activations; several types in a file; experts; keys and
    values in int8, whose kernels are compiled before the first request."""
    settings: dict[str, Any] = {}
    if stored == "int4":
        checkpoint, settings = make_checkpoint(tmp_path / "model", "llama"), {"quantization": "int4"}
    elif stored == "gptq act-order":
        plain = make_checkpoint(tmp_path / "model", **ONE_LAYER)
        checkpoint, _ = write_quantized(plain, tmp_path, WAYS[stored])
    elif stored == "gguf":
        plain = make_checkpoint(tmp_path / "model", **ONE_LAYER)
        checkpoint = write_gguf(plain, tmp_path / "model.gguf", "llama", of_llama_cpp)
        assert describe_model(EngineConfig(model=str(checkpoint), device="cuda"), Shard(0, 1)).kv_dtype == "bfloat16"
        settings = {"dtype": "float32"}
    elif stored == "int8 pages":
        checkpoint, settings = make_checkpoint(tmp_path / "model", "llama"), {"kv_cache_dtype": "int8"}
        monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: warm_up_batches(32))
    else:
        checkpoint, settings = make_checkpoint(tmp_path / "model", "mixtral"), {"quantization": "int8"}
    shared = random_prompt(8, 5)
    asked = [make("a", random_prompt(1, 3), max_tokens=3), make("b", [*shared, 5, 6], max_tokens=2)]
    arrivals = [(0, asked[0]), (2, asked[1])]
    answers = []
    for device in ("cpu", "gpu"):
        how: dict[str, Any] = {"max_num_batched_tokens": 8, "max_num_seqs": 4, **settings}
        if device == "cpu":
            engine = load(checkpoint, **{"kv_cache_dtype": "float32", **how})
        elif stored == "int8 pages":
            engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=True, max_model_len=100, **how)
            Capturing.launches.late.clear()
        else:
            engine = on_gpu(checkpoint, monkeypatch, **how)
        answers.append(answer(engine, arrivals))
        engine.close()
    assert stored != "int8 pages" or Capturing.launches.late == []
    expected, found = answers
    # Beside keys in int8 the CPU has queries in 8 bits too.
    off = 5e-2 if stored == "int8 pages" else 2e-2
    for name in expected:
        assert tokens(found[name]) == tokens(expected[name])
        for one, other in zip(logprobs(found[name]), logprobs(expected[name]), strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=off)


class Older(CudaPlatform):
    """On a GPU whose tensor cores have no FP8."""

    def __init__(self, config: EngineConfig, gpu: Gpu) -> None:
        super().__init__(config, dataclasses.replace(gpu, capability=(8, 6)))


@pytest.mark.parametrize("stored", ["fp8 blocks", "float-quantized channel"])
def test_fp8_checkpoints_have_fp8_activations_where_tensor_cores_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    """On older GPUs, and where the checkpoint has float activations, logits are the CPU's; else they differ."""
    plain = make_checkpoint(tmp_path / "model", **ONE_LAYER)
    checkpoint, _ = write_quantized(plain, tmp_path, WAYS[stored])
    asked = [(0, make("a", random_prompt(1, 3), max_tokens=1))]
    how: dict[str, Any] = {"max_num_seqs": 2, "dtype": "float32"}
    cases: list[tuple[type[CudaPlatform], bool]] = [(Older, False), (CudaPlatform, True)]
    if stored != "fp8 blocks":  # compressed-tensors says what activations are
        config = json.loads((checkpoint / "config.json").read_text())
        next(iter(config["quantization_config"]["config_groups"].values()))["input_activations"] = None
        (checkpoint / "config.json").write_text(json.dumps(config))
        cases = [(CudaPlatform, False)]
    engine = load(checkpoint, kv_cache_dtype="float32", **how)
    (expected,) = logprobs(answer(engine, asked)["a"])
    engine.close()
    for platform, in_fp8 in cases:
        engine = on_gpu(checkpoint, monkeypatch, platform, **how)
        matrices = engine._executor._decoder.weights.matrices.values()  # type: ignore[attr-defined]
        assert {one.fp8_activations for one in matrices if isinstance(one, QuantizedWeight)} == {in_fp8}
        (found,) = logprobs(answer(engine, asked)["a"])
        engine.close()
        lost = max(abs(one - other) for one, other in zip(found.logprobs, expected.logprobs, strict=True))
        assert 1e-5 < lost < 0.2 if in_fp8 else lost < 1e-4


def test_a_generate_step_reads_weights_once_and_copies_once_each_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes to the device but a page that begins, and a token and its logit of each row come back."""
    read: list[int] = []

    class Counting(CudaPlatform):
        def new_ops(self, num_threads: int, group: Group, described: Description) -> Ops:
            ops = super().new_ops(num_threads, group, described)
            return dataclasses.replace(
                ops, linear=lambda x, weight, *rest: (read.append(weight.num_bytes), ops.linear(x, weight, *rest))[1]
            )

    checkpoint = make_checkpoint(tmp_path, "llama")
    engine = on_gpu(checkpoint, monkeypatch, Counting, max_num_seqs=3, block_size=8)
    copied = counted_copies(monkeypatch)
    for number in range(3):
        engine.submit(make(str(number), random_prompt(number, 6), max_tokens=9, logprobs=None))
    engine.step()
    matrices = engine._executor._decoder.weights.matrices  # type: ignore[attr-defined]
    for step in range(5):
        read.clear(), copied.clear()
        assert len(engine.step()) == 3
        assert sum(read) == sum(one.num_bytes for name, one in matrices.items() if name != "embed.weight")
        # Prompts of 6 tokens and a page of 8: with the fourth token each row begins its second page.
        opens = step == 2
        assert copied == [*([3 * (8 + 4)] if opens else []), 3 * (8 + 4)]
    engine.close()


def test_what_long_prompts_have_left_is_given_back_while_the_engine_idles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and not what the start has left; pages keep what they hold."""
    unused, freed = [2**30], list[int]()
    monkeypatch.setattr(cuda_memory, "unused_bytes", lambda device: unused[0])
    monkeypatch.setattr(cuda_memory, "free_unused", lambda device: freed.append(unused[0]))
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    checkpoint = make_checkpoint(tmp_path, "llama")
    engine = on_gpu(checkpoint, monkeypatch, warm=True, block_size=4, async_scheduling=True)
    asked = make("one", random_prompt(1, 9), max_tokens=3)
    expected = answer(engine, [(0, asked)])
    assert not engine.wait(0) and freed == []
    again = answer(engine, [(0, msgspec.structs.replace(asked, id="again"))])
    unused[0] += cuda_memory.TRIM_BYTES + 1
    assert not engine.wait(0) and not engine.wait(0) and freed == unused
    cached = answer(engine, [(0, msgspec.structs.replace(asked, id="cached"))])
    assert cached["cached"][0].cached_tokens == 8
    assert tokens(expected["one"]) == tokens(again["again"]) == tokens(cached["cached"])
    engine.close()


def test_what_follows_tokens_follows_them_while_the_next_iteration_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that end one after another and make others move, while their last tokens are on the way: penalties, banned
    words, min_tokens and random numbers count every token of their own sequence. A forward starts before the tokens of
    the one before are waited for."""
    checkpoint = make_checkpoint(tmp_path, "llama")
    kinds: list[dict[str, Any]] = [
        {"repetition_penalty": 1.4, "frequency_penalty": 0.3},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 0.8, "presence_penalty": 0.5, "min_tokens": 3, "stop_token_ids": [5]},
        {"logprobs": None},
    ]
    asked = [
        make(
            str(number),
            random_prompt(number, 1 + 3 * number),
            seed=number,
            max_tokens=4 + 2 * number,
            **kinds[number % 4],
        )
        for number in range(8)
    ]
    asked = [msgspec.structs.replace(one, bad_words_ids=[[7], [3, 4]]) if one.id == "4" else one for one in asked]
    arrivals = [(number // 2, one) for number, one in enumerate(asked)]
    engine = load(checkpoint)
    expected = answer(engine, arrivals)
    engine.close()
    events: list[str] = []
    forward, wait = CudaExecutor._forward, Fetched.wait
    monkeypatch.setattr(CudaExecutor, "_forward", lambda *args: (events.append("forward"), forward(*args))[1])
    monkeypatch.setattr(Fetched, "wait", lambda self: (events.append("wait"), wait(self))[1])
    engine = on_gpu(checkpoint, monkeypatch, async_scheduling=True, max_num_batched_tokens=9, max_num_seqs=5)
    found = answer(engine, arrivals)
    assert engine.roster.counts["row_moves"] > 2
    engine.close()
    for name, deltas in expected.items():
        assert tokens(found[name]) == tokens(deltas), name
    started = [events[:place].count("forward") for place, event in enumerate(events) if event == "wait"]
    assert sum(forwards == waits + 2 for waits, forwards in enumerate(started)) >= len(started) - 2


def test_captured_forwards_give_the_same_tokens_and_nothing_is_compiled_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of 1, 2, 4 and 5 rows; arrivals, chunks, rows that move, every kind of sampling."""
    checkpoint = make_checkpoint(tmp_path, "llama")
    kinds: list[dict[str, Any]] = [
        {"repetition_penalty": 1.4, "prompt_logprobs": 1},
        {"temperature": 1.0, "top_k": 40, "logprobs": None},
        {"temperature": 0.8, "presence_penalty": 0.5},
        {"logprobs": None},
    ]
    asked = [
        make(
            str(number), random_prompt(number, 1 + 4 * number), seed=number, max_tokens=4 + number, **kinds[number % 4]
        )
        for number in range(6)
    ]
    arrivals = [(number, one) for number, one in enumerate(asked)]
    engine = load(checkpoint)
    expected = answer(engine, arrivals)
    engine.close()
    seen: list[tuple[Any, ...]] = []
    settings = {"max_model_len": 100, "max_num_batched_tokens": 70, "max_num_seqs": 5, "async_scheduling": True}
    engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=True, progress=lambda *args: seen.append(args), **settings)
    assert [args for args in seen if len(args) == 3] == [(done, 4, "CUDA graphs") for done in range(5)]
    executor: Any = engine._executor
    Capturing.launches.late.clear()
    found = answer(engine, arrivals)
    for name, deltas in expected.items():
        assert tokens(found[name]) == tokens(deltas), name
    assert Capturing.launches.late == []
    assert (executor.num_graphs, executor.late_compilations) == (4, 0)
    assert len(Capturing.graphs.runs) > 8
    engine.close()


def test_enforce_eager_makes_no_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    engine = on_gpu(make_checkpoint(tmp_path, "llama"), monkeypatch, Capturing, warm=True, enforce_eager=True)
    found = answer(engine, [(0, make("one", random_prompt(1, 3), max_tokens=4))])
    assert len(tokens(found["one"])) == 4
    assert Capturing.graphs.runs == []
    engine.close()


def test_preempted_cancelled_and_pooled_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of experts with a pool too small for all that run: rows leave and come back while iterations overlap,
    one is cancelled, two ask for embeddings. Captured forwards."""
    checkpoint = make_checkpoint(tmp_path, "qwen2_moe")
    asked = [make(str(number), random_prompt(number, 5 + number), seed=number, max_tokens=22) for number in range(4)]
    asked[1] = make("1", random_prompt(1, 6), seed=1, max_tokens=22, temperature=1.0, top_p=0.9, repetition_penalty=1.2)
    pooled = [make(f"pooled {kind}", random_prompt(9, 13), max_tokens=1, pooling=kind) for kind in ("last", "mean")]
    arrivals = [*((2 * number, one) for number, one in enumerate(asked)), (4, pooled[0]), (9, pooled[1])]
    engine = load(checkpoint)
    expected = answer(engine, arrivals)
    engine.close()

    def cancel(engine: Engine) -> None:
        if engine.roster.counts["iterations"] == 12:
            engine.cancel("gone")

    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": 8, "max_model_len": 40, "block_size": 4}
    size = 13 * 4 * 2 * 2 * 2 * 12 * 4  # pages of 4 tokens: keys and values, two layers of two heads
    engine = on_gpu(
        checkpoint, monkeypatch, Capturing, warm=True, async_scheduling=True, kv_cache_memory_bytes=size, **settings
    )
    found = answer(engine, [*arrivals, (3, make("gone", random_prompt(5, 4), max_tokens=30))], cancel)
    assert engine.roster.counts["preemptions"] > 1
    engine.close()
    assert found.pop("gone")
    for name, deltas in expected.items():
        assert tokens(found[name]) == tokens(deltas), name
        if name.startswith("pooled"):
            own, other = (np.frombuffer(one[-1].embedding or b"", dtype="<f4") for one in (found[name], deltas))
            np.testing.assert_allclose(own, other, atol=1e-4)
            assert len(own)


def test_a_row_without_usable_numbers_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next forward has been started already, with some token in the place of the one that is not there."""
    checkpoint = make_checkpoint(tmp_path, "llama")
    choice, calls, inputs = CudaExecutor._start_choice, itertools.count(), list[int]()
    forward = CudaExecutor._forward

    def poisoned(self: CudaExecutor, logits: Any, rows: Any, on_device: Any) -> Any:
        if next(calls) == 5:
            logits[0] = math.nan
        return choice(self, logits, rows, on_device)

    def looking(self: CudaExecutor, batch: Any) -> Any:
        inputs.extend(batch.token_ids.tolist())
        return forward(self, batch)

    monkeypatch.setattr(CudaExecutor, "_start_choice", poisoned)
    monkeypatch.setattr(CudaExecutor, "_forward", looking)
    asked = [make(str(number), random_prompt(number, 3), max_tokens=12) for number in range(2)]
    engine = load(checkpoint)
    expected = answer(engine, [(0, one) for one in asked])
    engine.close()
    engine = on_gpu(checkpoint, monkeypatch, max_num_seqs=2, async_scheduling=True)
    found = answer(engine, [(0, one) for one in asked])
    engine.close()
    assert found["0"][-1].finish_reason == "error" and "not finite" in str(found["0"][-1].error)
    assert tokens(found["1"]) == tokens(expected["1"])
    assert min(inputs) >= 0


def test_structured_outputs_while_iterations_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask is made of every token before, beside the forward that takes the newest; one that takes longer is waited
    for. Each is under way before its forward goes on, and is there later."""
    follow, start, begun = GrammarState._follow, MaskThread.start, threading.Event()

    def slowly(state: GrammarState, tokens: list[int]) -> str:
        begun.set()
        if threading.current_thread().name == "masks":
            time.sleep(0.1)
        return follow(state, tokens)

    def start_and_wait(masks: MaskThread, states: Sequence[GrammarState]) -> None:
        begun.clear()
        start(masks, states)
        begun.wait(5.0 if states and not states[0]._built else 0.0)

    monkeypatch.setattr(GrammarState, "_follow", slowly)
    monkeypatch.setattr(MaskThread, "start", start_and_wait)
    constraints = {"choice": ["a red kite", "a grey goose"]}, {"regex": "[a-c]{2,6}!"}
    asked = [
        make(
            str(number),
            TOKENIZER.encode("Tom had")[: 2 + number],
            seed=number,
            temperature=1.0,
            max_tokens=12,
            ignore_eos=False,
            structured_outputs=StructuredOutputsParams(**fields),
        )
        for number, fields in enumerate(constraints)
    ]
    answers = []
    for on_device in (False, True):
        engine = (
            on_gpu(MODEL, monkeypatch, max_num_seqs=3, async_scheduling=True, dtype="float32", max_model_len=64)
            if on_device
            else load(MODEL)
        )
        for one in asked:
            if (work := engine.prepare(one, VOCABULARY)) is not None:
                work()
        answers.append(answer(engine, [(number, one) for number, one in enumerate(asked)]))
        engine.close()
    for name, deltas in answers[0].items():
        assert tokens(answers[1][name]) == tokens(deltas), name
