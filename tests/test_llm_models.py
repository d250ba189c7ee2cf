"""`LLM` with real models: the bundled one and tiny random checkpoints."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.checkpoints import make_checkpoint, random_prompt, reference_greedy

from flover import LLM, EngineClosedError, ModelError, RequestError, SamplingParams

SMALL: dict[str, Any] = {"num_threads": 1, "kv_cache_memory_bytes": 2**24}


@pytest.fixture(scope="module")
def tiny() -> Iterator[LLM]:
    with LLM(**SMALL) as llm:
        yield llm


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), "llama", tokenizer=True)


def test_without_a_name_the_bundled_model_tells_a_story(tiny: LLM) -> None:
    (output,) = tiny.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=20))
    assert output.prompt_token_ids[0] == tiny.get_tokenizer().bos_id
    assert len(output.outputs[0].token_ids) == 20
    assert output.outputs[0].text.startswith((",", " "))
    assert len(output.outputs[0].text.split()) > 8
    assert tiny.get_default_sampling_params().temperature == 0.8


def test_the_bundled_model_chats_and_ends_its_turn(tiny: LLM) -> None:
    messages = [{"role": "user", "content": "Tell me a story about a fox."}]
    (output,) = tiny.chat(messages, SamplingParams(temperature=0, max_tokens=400))
    assert output.outputs[0].finish_reason == "stop"
    assert "<|" not in output.outputs[0].text


def test_a_batch_gives_what_each_prompt_gives_alone(tiny: LLM) -> None:
    prompts = ["Once upon a time", "The little fox", "One day", "Tom and Lily", "It was"]
    params = SamplingParams(temperature=0, max_tokens=24)
    alone = [tiny.generate(prompt, params)[0].outputs[0].token_ids for prompt in prompts]
    together = [output.outputs[0].token_ids for output in tiny.generate(prompts, params, use_tqdm=False)]
    assert together == alone


def test_seeds_hold_and_sequences_of_one_prompt_differ(tiny: LLM) -> None:
    params = SamplingParams(seed=11, n=3, max_tokens=12, temperature=1.0)
    first, second = (tiny.generate(["Once", "upon"], params) for _ in range(2))
    assert [one.text for one in first[0].outputs] == [one.text for one in second[0].outputs]
    assert len({one.text for one in first[0].outputs}) > 1


def test_a_stop_string_of_the_real_model_ends_the_sequence_and_frees_its_pages(tiny: LLM) -> None:
    free = SamplingParams(temperature=0, max_tokens=40)
    whole = tiny.generate("Once upon a time", free)[0].outputs[0].text
    stop = whole.split()[5]
    (output,) = tiny.generate("Once upon a time", free.replace(stop=[stop]))
    assert output.outputs[0].text == whole[: whole.find(stop)]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)
    stats = tiny.get_metrics()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)


def test_bad_words_do_not_appear(tiny: LLM) -> None:
    params = SamplingParams(temperature=0, max_tokens=30)
    whole = tiny.generate("Once upon a time", params)[0].outputs[0].text
    word = whole.split()[3].strip(".,")
    (output,) = tiny.generate("Once upon a time", params.replace(bad_words=[word]))
    assert f" {word} " in f"{whole} "
    assert f" {word} " not in output.outputs[0].text


def test_prompt_log_probabilities_cover_the_prompt(tiny: LLM) -> None:
    (output,) = tiny.generate("Once upon a time", SamplingParams(max_tokens=1, prompt_logprobs=2, logprobs=2))
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    for token, entry in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert entry is not None and token in entry
        assert [one.rank for one in entry.values()][-2:] in ([1, 2], [2, 1]) or len(entry) == 2


def test_greedy_tokens_are_those_of_transformers(checkpoint: Path) -> None:
    prompts = [random_prompt(seed, length) for seed, length in enumerate((3, 17, 40))]
    with LLM(checkpoint, skip_tokenizer_init=True, **SMALL) as llm:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            SamplingParams(temperature=0, max_tokens=64, ignore_eos=True),
        )
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.outputs[0].token_ids == reference_greedy(checkpoint, prompt, 64)


def test_a_request_beyond_the_pool_is_refused_and_the_next_one_runs(checkpoint: Path) -> None:
    with LLM(checkpoint, max_model_len=64, **SMALL) as llm:
        with pytest.raises(RequestError, match="maximum context length is 64 tokens"):
            llm.generate("x" * 64, SamplingParams(max_tokens=10))
        with pytest.raises(RequestError, match=r"prompts\[1\]"):
            llm.generate(["a", "x" * 65])
        assert len(llm.generate("abc", SamplingParams(max_tokens=3, ignore_eos=True))[0].outputs[0].token_ids) == 3


def test_a_missing_model_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        LLM(tmp_path / "nothing")
    with pytest.raises(ModelError):
        LLM(tmp_path)


def test_a_model_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama")
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        LLM(folder, **SMALL)
    with LLM(folder, skip_tokenizer_init=True, **SMALL) as llm:
        assert llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2, ignore_eos=True))[0].outputs[0].token_ids


def test_the_tokenizer_of_another_folder_can_be_used(checkpoint: Path, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama")
    with LLM(folder, tokenizer=checkpoint, **SMALL) as llm:
        assert llm.generate("ab", SamplingParams(max_tokens=1))[0].prompt_token_ids == [97, 98]


def test_closing_gives_the_memory_back(tmp_path: Path) -> None:
    width = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 3, "num_attention_heads": 12}
    folder = make_checkpoint(tmp_path, "llama", num_key_value_heads=12, **width)
    process = psutil.Process()

    def resident() -> float:
        gc.collect()
        return process.memory_info().rss / 2**20

    def load() -> LLM:
        llm = LLM(folder, skip_tokenizer_init=True, num_threads=1, kv_cache_memory_bytes=2**25)
        llm.generate([[1, 2, 3]] * 8, SamplingParams(max_tokens=8, ignore_eos=True))
        return llm

    load().close()
    before = resident()
    llm = load()
    loaded = resident()
    llm.close()
    assert loaded - before > 80, "the model must be big enough to be seen"
    assert resident() - before < 20
    with pytest.raises(EngineClosedError):
        llm.generate([[1]])
