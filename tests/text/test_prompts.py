"""From prompts to checked requests: limits, truncation, bad words, seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import text_samples as samples
import tokenizers
from support.facts import model_facts

from flover.errors import RequestError
from flover.request import Request, SamplingParams
from flover.text.prompts import bad_words_ids, make_request, prompt_list, read_prompt
from flover.text.tokenizer import Tokenizer

FACTS = model_facts(vocab_size=502, max_model_len=64, eos_ids=[1])


def make(prompt: Any, kind: str | None = "byte_level", **fields: Any) -> Request:
    params = fields.pop("params", SamplingParams(**fields))
    tokenizer = None if kind is None else samples.load(kind)
    return make_request(prompt, params, request_id="r", tokenizer=tokenizer, facts=FACTS, draw_seed=lambda: 99)


def test_text_is_tokenized_with_the_models_special_tokens() -> None:
    tokenizer = samples.load("sentencepiece")
    assert make("a fox", "sentencepiece").prompt_ids == tokenizer.encode("a fox")
    raw = make_request(
        "a fox",
        SamplingParams(),
        request_id="r",
        tokenizer=tokenizer,
        facts=FACTS,
        draw_seed=lambda: 1,
        add_special_tokens=False,
    )
    assert raw.prompt_ids == tokenizer.encode("a fox", add_special_tokens=False)


def test_the_seed_is_drawn_only_if_none_is_given() -> None:
    assert make("a").seed == 99
    assert make("a", seed=0).seed == 0


def test_truncation_keeps_the_end_of_the_prompt() -> None:
    assert make(list(range(100)), truncate_prompt_tokens=10).prompt_ids == list(range(90, 100))
    for max_tokens, most in ((None, 63), (20, 44), (63, 1)):
        assert make(list(range(100)), truncate_prompt_tokens=-1, max_tokens=max_tokens).prompt_ids == list(
            range(100 - most, 100)
        )
    assert make([1, 2], truncate_prompt_tokens=-1, max_tokens=60).params.max_tokens == 60
    with pytest.raises(RequestError, match=r"max_tokens \(64\) leaves no token of the prompt"):
        make([1, 2], truncate_prompt_tokens=-1, max_tokens=64)
    ids = samples.load("byte_level").encode(samples.SAMPLE[0] * 20)
    assert make(samples.SAMPLE[0] * 20, truncate_prompt_tokens=7).prompt_ids == ids[-7:]


def test_max_tokens_is_all_the_room_if_none() -> None:
    assert make([5, 6, 7], max_tokens=None).params.max_tokens == FACTS.max_model_len - 3


@pytest.mark.parametrize(
    ("prompt", "fields", "param"),
    [
        ("", {}, "prompt"),
        ([], {}, "prompt"),
        ([1.5], {}, "prompt"),
        ([True], {}, "prompt"),
        (["a"], {}, "prompt"),
        ([502], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([1] * 64, {}, "prompt"),
        ("a\ud800", {}, "prompt"),
        ("a", {"bad_words": ["\ud800"]}, "bad_words"),
    ],
)
def test_what_can_never_be_served_is_refused(prompt: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        make(prompt, **fields)
    assert caught.value.param == param


def test_text_that_cannot_fit_is_refused_before_it_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> list[int]:
        raise AssertionError("the text was tokenized")

    monkeypatch.setattr(type(samples.load("byte_level")), "encode", never)
    most = FACTS.max_model_len * samples.load("byte_level").longest_token_len
    with pytest.raises(
        RequestError, match=f"maximum context length is .* at most {most} characters.*has {most + 1} characters"
    ) as caught:
        make("a" * (most + 1))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(RequestError, match="maximum context length"):
        make("a" * 2**21, truncate_prompt_tokens=5)


@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        ("a", {}, "no tokenizer is loaded"),
        ([5], {"stop": "x"}, "stop strings need a tokenizer"),
        ([5], {"bad_words": ["x"]}, "bad_words need a tokenizer"),
    ],
)
def test_text_needs_a_tokenizer(prompt: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make(prompt, None, **fields)
    assert make([5], None).prompt_ids == [5]


def test_spaces_that_a_tokenizer_puts_between_any_two_tokens_cannot_be_left_out(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words = Tokenizer.load(samples.write_tokenizer(tmp_path, backend))
    params = SamplingParams(spaces_between_special_tokens=False)
    make("a", spaces_between_special_tokens=False)
    with pytest.raises(RequestError, match="spaces_between_special_tokens: false is not supported with this model's"):
        make_request("a b", params, request_id="r", tokenizer=words, facts=FACTS, draw_seed=lambda: 1)


WORDS = ["fox", " fox", "there", "a small house", "Größe", "🦊", "The", "\n"]


@pytest.mark.parametrize("kind", samples.KINDS)
def test_a_bad_word_is_banned_in_every_form_that_a_text_gives_it(kind: str) -> None:
    """At the beginning of a text, after a space and after a line break, whatever its number of tokens."""
    tokenizer = samples.load(kind)
    for word in WORDS:
        bare = word.lstrip() or word
        banned = bad_words_ids([word], tokenizer)
        for before in ("", "The ", "The\n", "river", "\n\n"):
            whole = tokenizer.encode(before + bare, add_special_tokens=False)
            if tokenizer.decode(whole[len(tokenizer.encode(before, add_special_tokens=False)) :]).strip(" ") != bare:
                continue  # the word shares a token with what stands before it
            assert any(whole[len(whole) - len(form) :] == form for form in banned), (word, before)


@pytest.mark.parametrize(
    ("prompts", "count"),
    [
        ("a", 1),
        (["a", "b"], 2),
        ([1, 2, 3], 1),
        ([[1], [2]], 2),
        ({"prompt": "a"}, 1),
        ([{"prompt": "a"}, [1]], 2),
        ([], 0),
    ],
)
def test_one_prompt_or_many(prompts: Any, count: int) -> None:
    assert len(prompt_list(prompts)) == count


def test_the_forms_of_a_prompt() -> None:
    assert read_prompt("a") == ("a", None, "")
    assert read_prompt([1, 2]) == (None, [1, 2], "")
    assert read_prompt({"prompt": "a", "prompt_token_ids": [1], "cache_salt": "s"}) == ("a", [1], "s")


@pytest.mark.parametrize(
    "prompt",
    [
        {},
        {"prompt": 7},
        {"prompt_token_ids": "abc"},
        {"prompt_token_ids": 7},
        {"prompt": "a", "multi_modal_data": {}},
        {"prompt": "a", "cache_salt": 7},
        7,
        b"bytes",
    ],
)
def test_other_forms_are_refused(prompt: Any) -> None:
    with pytest.raises(RequestError):
        read_prompt(prompt)
