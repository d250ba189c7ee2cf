"""What ends a sequence and how tokens are chosen by default: from the model's files, the same on every way in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import make_checkpoint, write_tokenizer

from flover import LLM, SamplingParams
from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError, RequestError
from flover.generation_config import default_max_tokens, ignored_fields, read_eos_ids, read_sampling_defaults
from flover.server.params import chat_params, completion_params
from flover.server.protocol import ChatBody, CompletionBody
from flover.server.text_side import load_text
from flover.source import open_source


def write(path: Path, name: str, **fields: Any) -> None:
    (path / name).write_text(json.dumps(fields))


def edit(path: Path, name: str, **fields: Any) -> None:
    (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | fields))


def load_llm(path: Path, **settings: Any) -> LLM:
    return LLM(path, num_threads=1, max_num_seqs=2, max_num_batched_tokens=64, **settings)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    """One for tests that only get refused."""
    with load_llm(make_checkpoint(tmp_path_factory.mktemp("model"), tokenizer=True)) as llm:
        yield llm


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "expected"),
    [
        (1, None, "<|end|>", (1, 256)),
        (None, ..., "<|end|>", (256,)),
        (None, [], "<|end|>", (256,)),
        (1, [], None, (1,)),
        ([1, 2], [3, 2], "<|end|>", (1, 2, 3, 256)),
        ([1, None], 5, None, (1, 5)),
        (99_999, [7, 50_256], None, (7,)),
        (None, None, None, ()),
    ],
)
def test_ends_are_the_union_of_three_files(
    config: Any, generation: Any, tokenizer: str | None, expected: tuple[int, ...], tmp_path: Path
) -> None:
    path = make_checkpoint(tmp_path, tokenizer=True)
    edit(path, "config.json", eos_token_id=config)
    edit(path, "tokenizer_config.json", eos_token=tokenizer)
    (path / "generation_config.json").unlink(missing_ok=True)
    if generation is not ...:
        write(path, "generation_config.json", eos_token_id=generation)
    assert read_eos_ids(open_source(path), open_source(path), 300) == expected
    with load_llm(path) as llm:
        assert tuple(llm._running_engine().facts.eos_ids) == expected
    with load_llm(path, skip_tokenizer_init=True) as llm:
        assert 256 not in llm._running_engine().facts.eos_ids


@pytest.mark.parametrize("where", ["added_tokens_decoder", "added_tokens", "vocab", "special_tokens_map.json"])
def test_the_tokenizers_end_is_found_wherever_it_is_written(where: str, tmp_path: Path) -> None:
    write(tmp_path, "config.json")
    write_tokenizer(tmp_path)
    if where == "added_tokens_decoder":
        edit(tmp_path, "tokenizer_config.json", eos_token={"content": "<x>"}, **{where: {"77": {"content": "<x>"}}})
    elif where == "vocab":
        edit(tmp_path, "tokenizer_config.json", eos_token="a")
    elif where.endswith("json"):
        edit(tmp_path, "tokenizer_config.json", eos_token=None)
        write(tmp_path, where, eos_token="<|end|>")
    expected = {"added_tokens_decoder": 77, "vocab": ord("a")}.get(where, 256)
    assert read_eos_ids(open_source(tmp_path), open_source(tmp_path), 300) == (expected,)


@pytest.mark.parametrize("value", ["</s>", [1, "2"], True, 1.5, {"id": 1}])
def test_an_end_that_is_no_token_id_is_refused(value: Any, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        write(tmp_path, "config.json")
        write(tmp_path, name, eos_token_id=value)
        with pytest.raises(ModelError, match=f"{name}: eos_token_id"):
            read_eos_ids(open_source(tmp_path), None, 300)


BAD: dict[str, list[Any]] = {
    "top_p": [0.0, 1.5, -1, "0.9", True, float("nan")],
    "temperature": [-0.1, 1e9, "warm", False, float("inf"), 10**400],
    "top_k": [-2, 1.5, "5", 2**40],
    "min_p": [-0.1, 1.1, [0.1]],
    "repetition_penalty": [0, -1.0, 1e11, {}],
    "max_new_tokens": [0, -5, 1.5, "many", 2**40],
}


@pytest.mark.parametrize("name", BAD)
def test_a_recommendation_that_no_request_can_have_is_refused_at_start(name: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, tokenizer=True)
    for value in BAD[name]:
        write(path, "generation_config.json", **{name: value})
        for start in (
            lambda: read_sampling_defaults(open_source(path)),
            lambda: load_llm(path),
            lambda: load_text(EngineConfig(model=str(path)), None),
            lambda: load_text(EngineConfig(model=str(path), skip_tokenizer_init=True), None),
        ):
            with pytest.raises(ModelError, match=rf"generation_config\.json: {name}"):
                start()


@pytest.mark.parametrize("recommended", [{}, {"max_new_tokens": 5}, {"max_new_tokens": 5, "temperature": 0.5}])
def test_defaults_are_the_same_on_every_way_in(recommended: dict[str, Any], tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, tokenizer=True)
    write(path, "generation_config.json", **recommended)
    defaults = load_text(EngineConfig(model=str(path)), None).defaults
    completion = completion_params(CompletionBody(model="m", prompt=["a"]), defaults, detokenize=True)
    messages: Any = [{"role": "user", "content": "a"}]
    chat = chat_params(ChatBody(model="m", messages=messages), defaults)
    with load_llm(path) as llm:
        own = llm.get_default_sampling_params()
        answer = llm.chat(messages, use_tqdm=False)[0].outputs[0]
    assert (completion.max_tokens, completion.temperature) == (own.max_tokens, own.temperature)
    assert completion.max_tokens == recommended.get("max_new_tokens", 16)
    assert chat.max_tokens == recommended.get("max_new_tokens") == default_max_tokens(defaults, chat=True)
    if chat.max_tokens is not None:
        assert len(answer.token_ids) <= chat.max_tokens


def test_a_recommended_length_is_cut_to_the_room_that_the_prompt_leaves(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, tokenizer=True)
    edit(path, "tokenizer_config.json", eos_token=None)
    write(path, "generation_config.json", max_new_tokens=100_000)
    with load_llm(path, max_model_len=32) as llm:
        output = llm.generate("a" * 20, use_tqdm=False)[0].outputs[0]
        assert (len(output.token_ids), output.finish_reason) == (12, "length")
        output = llm.generate("a" * 20, SamplingParams(max_tokens=100_000), use_tqdm=False)[0].outputs[0]
        assert (len(output.token_ids), output.finish_reason) == (12, "length")


def test_fields_that_are_not_honoured_are_named(tmp_path: Path) -> None:
    write(tmp_path, "generation_config.json", num_beams=4, do_sample=False, max_length=20, suppress_tokens=[1], top_k=5)
    assert ignored_fields(open_source(tmp_path)) == ["do_sample", "num_beams", "suppress_tokens"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompts": None}, "prompts"),
        ({"prompts": 5}, "prompts"),
        ({"prompts": b"abc"}, "prompts"),
        ({"prompts": {1, 2}}, "prompts"),
        ({"prompts": [None]}, "prompt"),
        ({"prompts": "a", "sampling_params": {"n": 1}}, "sampling_params"),
        ({"prompts": "a", "sampling_params": [None]}, "sampling_params"),
        ({"prompts": "a", "priority": "high"}, "priority"),
        ({"prompts": "a", "priority": 1.5}, "priority"),
        ({"prompts": "a", "use_tqdm": "no"}, "use_tqdm"),
    ],
)
def test_wrong_types_are_request_errors_that_name_the_argument(
    arguments: dict[str, Any], named: str, shared: LLM
) -> None:
    with pytest.raises(RequestError, match=named):
        shared.generate(**arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": 5}, "messages"),
        ({"messages": [5]}, "messages"),
        ({"messages": [[5]]}, "messages"),
        ({"chat_template": 5}, "chat_template"),
        ({"add_generation_prompt": None}, "add_generation_prompt"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
        ({"tools": "search"}, "tools"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ],
)
def test_wrong_types_of_chat_are_request_errors_too(arguments: dict[str, Any], named: str, shared: LLM) -> None:
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(RequestError, match=named):
        shared.chat(**({"messages": messages} | arguments))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_threads": 100_000},
        {"num_threads": "4"},
        {"max_num_seqs": True},
        {"max_model_len": 1.5},
        {"seed": "x"},
        {"block_size": 2**30},
        {"tensor_parallel_size": 10**6},
        {"data_parallel_size": 10**6},
        {"master_port": 10**6},
        {"target_itl_ms": float("nan")},
        {"dtype": None},
    ],
)
def test_settings_that_cannot_be_are_refused_by_their_flag(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--" + next(iter(settings)).replace("_", "-")):
        EngineConfig(**settings)


@pytest.mark.parametrize(("name", "value"), [("model", None), ("model", 5), ("tokenizer", 5)])
def test_a_model_that_is_no_name_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"--{name} must be a string"):
        LLM(**{name: value})
