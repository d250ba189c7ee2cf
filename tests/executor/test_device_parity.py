"""The executor on a real checkpoint: greedy tokens as transformers gives them, in any schedule."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from device_driver import Driver, Story, story, tell_alone, tell_in_a_crowd
from support.checkpoints import make_checkpoint, random_prompt, reference_greedy, reference_logits

from flover.config import EngineConfig
from flover.errors import ConfigError
from flover.executor.device import DeviceExecutor
from flover.executor.load import load_device

torch.set_num_threads(1)
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def references(checkpoint: Path) -> list[tuple[list[int], list[int]]]:
    """Prompts of several lengths, and what transformers says after them."""
    prompts = [random_prompt(seed, length) for seed, length in enumerate([1, 3, 16, 17, 40, 75])]
    return [(prompt, reference_greedy(checkpoint, prompt, NUM_TOKENS)) for prompt in prompts]


def load(checkpoint: Path, **changes: object) -> DeviceExecutor:
    settings = {"model": str(checkpoint), "max_num_seqs": 4, "num_threads": 1, "max_model_len": 128, **changes}
    return load_device(EngineConfig(**settings), lambda done, total: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("page_size", "reorder"), [(1, True), (5, False), (16, True), (16, False)])
def test_greedy_tokens_in_a_mixed_batch_are_those_of_transformers(
    checkpoint: Path, references: list[tuple[list[int], list[int]]], page_size: int, reorder: bool
) -> None:
    executor = load(checkpoint, block_size=page_size)
    stories = [story(prompt, NUM_TOKENS) for prompt, _ in references]
    tell_in_a_crowd(Driver(executor, 4), stories, Random(page_size), reorder=reorder, preempt=0.03)
    assert [told.outputs for told in stories] == [outputs for _, outputs in references]
    executor.close()


def test_seeded_draws_with_penalties_survive_crowd_and_preemption(checkpoint: Path) -> None:
    executor = load(checkpoint)

    def cast() -> list[Story]:
        return [
            story(random_prompt(n, 4 + n), 10, seed=n, temperature=0.9, top_p=0.9, repetition_penalty=1.2)
            for n in range(5)
        ]

    crowd, alone = cast(), cast()
    tell_in_a_crowd(Driver(executor, 4), crowd, Random(1), reorder=True, preempt=0.1)
    for together, single in zip(crowd, alone, strict=True):
        assert together.outputs == tell_alone(Driver(executor, 4), single).outputs
    executor.close()


@pytest.mark.parametrize("chunk_len", [4, 100])
def test_prompt_logprobs_are_those_of_transformers(checkpoint: Path, chunk_len: int) -> None:
    prompt = random_prompt(9, 11)
    wanted = reference_logits(checkpoint, prompt).log_softmax(-1)
    executor = load(checkpoint)
    told = story(prompt, 2, prompt_logprobs=2, logprobs=1)
    driver = Driver(executor, 4)
    driver.run(admit=[(0, told)], chunk_len=chunk_len)
    while not told.done:
        driver.run(chunk_len=chunk_len)
    assert told.prompt_logprobs[0] is None and len(told.prompt_logprobs) == 11
    for place, entry in enumerate(told.prompt_logprobs[1:]):
        assert entry is not None and entry.token_ids[0] == prompt[place + 1]
        assert entry.token_ids[1:] == wanted[place].topk(2).indices.tolist()
        torch.testing.assert_close(torch.tensor(entry.logprobs), wanted[place][entry.token_ids], atol=2e-4, rtol=0)
    assert told.logprobs[0].token_ids[1] == told.outputs[0] and told.logprobs[0].ranks == [1, 1]
    executor.close()


def test_loading_tells_the_facts_and_sizes_the_pool(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = EngineConfig(model=str(checkpoint), max_num_seqs=2, max_model_len=100, num_threads=1)
    executor = load_device(config, lambda done, total: seen.append((done, total)))
    facts = executor.facts
    assert (facts.vocab_size, facts.max_model_len, facts.page_size) == (300, 100, 16)
    assert facts.pool_tokens == 2 * 112
    assert facts.dtype == "float32" and facts.num_parameters > 0
    assert seen[-1][0] == seen[-1][1] > 0
    executor.close()


def test_a_pool_of_bytes_is_obeyed_and_too_few_are_refused(checkpoint: Path) -> None:
    page_bytes = 2 * 2 * 2 * 12 * 16 * 4  # keys and values, layers, heads, head size, tokens, bytes
    executor = load(checkpoint, kv_cache_memory_bytes=5 * page_bytes + 1)
    assert executor.facts.pool_tokens == 4 * 16
    executor.close()
    with pytest.raises(ConfigError, match="--kv-cache-memory-bytes"):
        load(checkpoint, kv_cache_memory_bytes=2 * page_bytes - 1)
