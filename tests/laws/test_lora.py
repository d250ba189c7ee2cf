"""Requests with adapters: what merged weights give, and the same bits in any company."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from laws.harness import alone, answer, assert_same, load, logprobs, make, tokens
from support.adapters import ATTENTION, make_adapter, merge_adapter
from support.checkpoints import make_checkpoint

from flover.errors import ModelError, RequestError
from flover.llm.llm import LLM
from flover.lora import LoraAdapter, LoRARequest, cache_salt
from flover.request import Request, SamplingParams
from flover.source.peft import find_adapter

PROMPT = list(range(3, 40))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LoraAdapter]:
    """All linears; attention alone; other ranks and scales, rank-stabilized."""
    folder = tmp_path_factory.mktemp("adapters")
    made = (
        make_adapter(folder / "all", base, seed=1),
        make_adapter(folder / "attention", base, seed=2, rank=3, targets=ATTENTION, target_modules="all-linear"),
        make_adapter(
            folder / "patterns",
            base,
            seed=3,
            rank=5,
            ranks={"k_proj": 7, "down_proj": 1},
            alpha_pattern={"mlp.up_proj": 3},
            use_rslora=True,
        ),
    )
    return [find_adapter(path.name, str(path)) for path in made]


SCALES: list[dict[str, float]] = [
    {"": 8 / 4},
    {"": 8 / 3},
    {"": 8 / 5**0.5, "k_proj": 8 / 7**0.5, "down_proj": 8.0, "up_proj": 3 / 5**0.5},
]


def with_adapter(request: Request, adapter: LoraAdapter | None) -> Request:
    """As the server and `LLM` make it."""
    if adapter is None:
        return request
    params = request.params.replace(lora=adapter)
    return msgspec.structs.replace(request, params=params, salt=cache_salt(request.salt, adapter))


def requests_of(adapters: list[LoraAdapter]) -> list[Request]:
    """With each adapter, and without; greedy and drawn; the same prompt and different ones."""
    made = []
    for place, adapter in enumerate([*adapters, None]):
        for number, more in enumerate(({}, {"temperature": 1.0, "n": 2}, {"frequency_penalty": 0.5})):
            prompt = PROMPT if number < 2 else PROMPT[place:]
            made.append(with_adapter(make(f"{place}-{number}", prompt, seed=place, max_tokens=16, **more), adapter))
    return made


def plain_and_merged(base: Path, adapters: list[LoraAdapter], folder: Path) -> list[Path]:
    merged = [
        merge_adapter(folder / adapter.name, base, Path(adapter.path), scales)
        for adapter, scales in zip(adapters, SCALES, strict=True)
    ]
    return [*merged, base]


def test_an_adapter_is_what_merged_weights_are(base: Path, adapters: list[LoraAdapter], tmp_path: Path) -> None:
    engine = load(base, enable_lora=True, dtype="float32")
    models = plain_and_merged(base, adapters, tmp_path)
    request, seen = make("r", PROMPT), set()
    for adapter, model in zip([*adapters, None], models, strict=True):
        ours = alone(engine, [with_adapter(request, adapter)])["r"]
        whole = load(model, dtype="float32")
        theirs = alone(whole, [request])["r"]
        whole.close()
        assert tokens(ours) == tokens(theirs)
        for one, other in zip(logprobs(ours), logprobs(theirs), strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-4 if adapter else 0)
        seen.add(tuple(tokens(ours)))
    assert len(seen) == len(models)  # every adapter changes the answer
    engine.close()


def test_adapters_beside_each_other(base: Path, adapters: list[LoraAdapter]) -> None:
    """Admitted at different times, in chunks, preempted, and with a prefix cache: the bits of each alone."""
    settings: dict[str, Any] = {"quantization": "int8", "kv_cache_dtype": "float32"}
    engine = load(base, enable_lora=True, max_loras=3, max_num_batched_tokens=24, max_num_seqs=24, **settings)
    requests = requests_of(adapters)
    expected = alone(engine, requests)
    plain = load(base, **settings)
    assert_same(
        {name: deltas for name, deltas in expected.items() if name.startswith("3-")}, alone(plain, requests[-3:])
    )
    plain.close()
    engine.reset_prefix_cache()
    assert_same(expected, answer(engine, [(2 * place, one) for place, one in enumerate(requests)]))
    engine.close()
    scarce = load(
        base, enable_lora=True, max_loras=3, block_size=4, kv_cache_memory_bytes=2**17, max_num_seqs=24, **settings
    )
    assert_same(expected, answer(scarce, [(place, one) for place, one in enumerate(requests)]))
    assert scarce.stats().preemptions > 0
    scarce.close()


def test_prefixes_belong_to_an_adapter(base: Path, adapters: list[LoraAdapter]) -> None:
    """A prompt that is cached for one adapter is computed again for another, and for a newer load of the same."""
    engine = load(base, enable_lora=True)
    newer = msgspec.structs.replace(adapters[0], generation=1)
    for adapter in (adapters[0], None, adapters[1], newer):
        for cached in (False, True):
            deltas = answer(engine, [(0, with_adapter(make("r", PROMPT), adapter))])["r"]
            assert (deltas[0].cached_tokens > 0) == cached
    engine.close()


def test_more_adapters_than_slots(base: Path, adapters: list[LoraAdapter]) -> None:
    """One that left its slot is read again; what cannot be read ends its own request."""
    engine = load(base, enable_lora=True, max_loras=1)
    requests = [with_adapter(make(str(place), PROMPT), adapter) for place, adapter in enumerate(adapters)]
    first = alone(engine, requests)
    assert_same(first, alone(engine, requests))
    gone = msgspec.structs.replace(adapters[0], digest="0" * 64)
    with pytest.raises(RequestError, match="has changed since"):
        engine.submit(with_adapter(make("gone", PROMPT), gone))
    engine.close()
    without = load(base)
    with pytest.raises(RequestError, match="--enable-lora"):
        without.submit(requests[0])
    without.close()


def test_llm_names_adapters(base: Path, adapters: list[LoraAdapter]) -> None:
    """By vLLM's keyword, one for all prompts or one each."""
    named = [LoRARequest(one.name, place, one.path) for place, one in enumerate(adapters)]
    greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    with LLM(base, skip_tokenizer_init=True, num_threads=1, enable_lora=True, max_loras=2) as llm:

        def ids(*asked: LoRARequest | None) -> list[list[int]]:
            outputs = llm.generate([PROMPT] * len(asked), greedy, lora_request=asked, use_tqdm=False)
            return [output.outputs[0].token_ids for output in outputs]

        together, one_by_one = ids(named[0], None, named[1]), [ids(one)[0] for one in (named[0], None, named[1])]
        assert together == one_by_one
        assert len({*map(tuple, together)}) == 3
        assert ids(*named) == [ids(one)[0] for one in named]  # beyond max_loras
        with pytest.raises(ModelError, match="is not a directory"):
            ids(LoRARequest("none", 9, "/nowhere"))
        with pytest.raises(RequestError, match="lora_request must be a LoRARequest"):
            ids("all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("gpt_neox", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
        ("qwen3_moe", ATTENTION),
    ],
)
def test_packed_and_mixed_linears(family: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    """Rows that a checkpoint has in another order, one module for several of ours; a model with experts."""
    model = make_checkpoint(tmp_path / "base", family)
    adapter = find_adapter("a", str(make_adapter(tmp_path / "a", model, targets=targets)))
    request = make("r", PROMPT, max_tokens=8)
    engine = load(model, enable_lora=True, dtype="float32")
    whole = load(merge_adapter(tmp_path / "merged", model, Path(adapter.path), {"": 2.0}), dtype="float32")
    ours, theirs, plain = (
        alone(one, [made])["r"]
        for one, made in ((engine, with_adapter(request, adapter)), (whole, request), (engine, request))
    )
    assert tokens(ours) == tokens(theirs) != tokens(plain)
    for one, other in zip(logprobs(ours), logprobs(theirs), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=5e-4)
    engine.close()
    whole.close()
