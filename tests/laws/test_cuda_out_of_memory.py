"""An iteration that finds no memory on a GPU: nothing is lost if that passes, and the request that asks for too much
ends alone. Tensors are the CPU's, and torch's error is raised in the place of an allocation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_engines import Capturing, on_gpu
from harness import answer, logprobs, make, tokens
from support.checkpoints import make_checkpoint, random_prompt

from flover.engine.loop import Engine
from flover.errors import ConfigError
from flover.executor import cuda_executor, cuda_rows
from flover.executor.cuda_executor import CudaExecutor
from flover.executor.cuda_graphs import Graphs
from flover.request import FinishReason, Request

pytestmark = pytest.mark.gpu
PHASES: dict[str, tuple[Any, str]] = {
    "the copy of a plan": (cuda_rows, "to_device"),
    "a chunk": (CudaExecutor, "_forward"),
    "a captured forward": (Graphs, "run"),
    "the copy of what rows ask for": (cuda_executor, "choices_to_device"),
    "edits and draws": (cuda_executor, "choose"),
    "log-probabilities": (cuda_executor, "logprobs"),
    "the copy of tokens": (cuda_executor, "Fetched"),
}
TOKENS = 5


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """One layer, captured forwards, iterations that overlap."""
    shape: dict[str, Any] = {"num_hidden_layers": 1, "vocab_size": 64}
    checkpoint = make_checkpoint(tmp_path, "llama", **shape)
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    settings = {"max_num_seqs": 3, "max_model_len": 40, "max_num_batched_tokens": 30, "async_scheduling": True}
    engine = on_gpu(checkpoint, monkeypatch, Capturing, warm=True, **settings)
    yield engine
    engine.close()


def requests() -> list[tuple[int, Request]]:
    """Greedy with log-probabilities, drawn, and of allowed tokens; they come one after another."""
    kinds: list[dict[str, Any]] = [
        {"logprobs": 2, "prompt_logprobs": 0},
        {"temperature": 0.9, "repetition_penalty": 1.2, "logprobs": None},
        {"allowed_token_ids": list(range(5, 30)), "logprobs": None},
    ]
    return [
        (place, make(str(place), random_prompt(place, 4 + place, 64), seed=place, max_tokens=TOKENS, **kind))
        for place, kind in enumerate(kinds)
    ]


def out_of_memory(patch: pytest.MonkeyPatch, phase: str, happens: Callable[..., bool]) -> None:
    """Where `happens`, given the arguments of the phase."""
    owner, name = PHASES[phase]
    real = getattr(owner, name)

    def limited(*args: Any, **named: Any) -> Any:
        if happens(*args):
            raise torch.cuda.OutOfMemoryError(f"no memory for {phase}")
        return real(*args, **named)

    patch.setattr(owner, name, limited)


def test_what_passes_costs_no_token(engine: Engine) -> None:
    """Once in each phase of an iteration, with another iteration in flight."""
    expected = {name: tokens(deltas) for name, deltas in answer(engine, requests()).items()}
    for number, phase in enumerate(PHASES, 1):
        engine.reset_prefix_cache()
        calls = itertools.count()
        with pytest.MonkeyPatch.context() as patch:
            out_of_memory(patch, phase, lambda *_, calls=calls: next(calls) == 2)
            found = answer(engine, requests())
        assert next(calls) > 3, phase
        assert engine.roster.counts["faults"] == number, phase
        assert {name: tokens(deltas) for name, deltas in found.items()} == expected, phase


@pytest.mark.parametrize("phase", ["a chunk", "the copy of what rows ask for", "log-probabilities"])
def test_the_request_that_asks_for_too_much_ends_alone(
    phase: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is tried: a long prompt, masks, log-probabilities of all tokens."""
    expected = {name: tokens(deltas) for name, deltas in answer(engine, requests()).items()}
    asks: dict[str, tuple[dict[str, Any], Callable[..., bool]]] = {
        "a chunk": ({}, lambda executor, batch: batch.num_tokens > 20),
        "the copy of what rows ask for": (
            {"allowed_token_ids": [7]},
            lambda choices, device: choices.edits is not None and (choices.edits.masks == 1 << 7).any(),
        ),
        "log-probabilities": ({"logprobs": -1}, lambda logits, chosen, num_top: num_top == 64),
    }
    params, happens = asks[phase]
    out_of_memory(monkeypatch, phase, happens)
    length = 25 if phase == "a chunk" else 3
    greedy = make("greedy", random_prompt(9, length, 64), **{"max_tokens": TOKENS, "logprobs": None, **params})
    engine.reset_prefix_cache()
    found = answer(engine, [*requests(), (3, greedy)])
    last = found.pop("greedy")[-1]
    assert last.finish_reason == FinishReason.ERROR and f"no memory for {phase}" in str(last.error)
    assert {name: tokens(deltas) for name, deltas in found.items()} == expected
    assert len(logprobs(found["0"])) == TOKENS


def test_rows_that_do_not_fit_together_are_computed_apart(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured forwards of more than one row find no memory, whenever they are run."""
    expected = {name: tokens(deltas) for name, deltas in answer(engine, requests()).items()}
    out_of_memory(monkeypatch, "a captured forward", lambda graphs, size, batch: size[0] > 1)
    engine.reset_prefix_cache()
    found = answer(engine, requests())
    assert engine.roster.counts["faults"] > 0
    assert {name: tokens(deltas) for name, deltas in found.items()} == expected


@pytest.mark.parametrize("phase", ["a chunk", "log-probabilities"])
def test_too_little_for_forwards_is_said_at_start(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path, "llama", num_hidden_layers=1)
    monkeypatch.setattr(cuda_executor, "warm_up_batches", lambda max_len: [((1,), 1)])
    out_of_memory(monkeypatch, phase, lambda *_: True)
    with pytest.raises(
        ConfigError, match="has no memory for forwards beside weights and pages: lower --gpu-memory-util"
    ):
        on_gpu(checkpoint, monkeypatch, warm=True, enforce_eager=True)
