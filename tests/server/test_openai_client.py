"""The server as the official client sees it. The toy model repeats its prompt, so every answer is known."""

from __future__ import annotations

import openai
import pytest

MESSAGES = [{"role": "user", "content": "hello"}]
PROMPT = "u:hello\na:"


def repeated(prompt: str, length: int) -> str:
    return (prompt * length)[:length]


def test_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="abc", max_tokens=7)
    assert answer.object == "text_completion"
    assert answer.model == "toy"
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason, choice.logprobs) == (0, "abcabca", "length", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 7, 10)


def test_a_completion_has_16_tokens_by_default(client: openai.OpenAI) -> None:
    assert client.completions.create(model="toy", prompt="abc").choices[0].text == repeated("abc", 16)


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="toy", messages=MESSAGES, max_completion_tokens=12)  # type: ignore[arg-type]
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == repeated(PROMPT, 12)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 12)


def test_a_chat_without_a_limit_uses_the_room_that_is_left(client: openai.OpenAI) -> None:
    message = [{"role": "user", "content": "x" * 2000}]
    answer = client.chat.completions.create(model="toy", messages=message)  # type: ignore[arg-type]
    assert answer.usage is not None
    assert answer.usage.total_tokens == 2048
    assert answer.choices[0].finish_reason == "length"


def test_the_end_of_sequence_ends_an_answer_and_is_not_shown(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="ab<eos>", max_tokens=9)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("ab", "stop")
    extra = {"ignore_eos": True, "skip_special_tokens": False}
    answer = client.completions.create(model="toy", prompt="ab<eos>", max_tokens=5, extra_body=extra)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("ab<eos>ab", "length")


def test_a_stop_string_ends_an_answer_before_it(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="abcdef", max_tokens=50, stop=["zz", "de"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("abc", "stop")
    assert answer.choices[0].stop_reason == "de"  # type: ignore[attr-defined]
    extra = {"include_stop_str_in_output": True}
    answer = client.completions.create(model="toy", prompt="abcdef", max_tokens=50, stop="de", extra_body=extra)
    assert answer.choices[0].text == "abcde"


def test_many_prompts_and_many_choices_are_numbered_prompt_first(client: openai.OpenAI) -> None:
    """With a temperature sequence i starts i + seed characters into the prompt."""
    answer = client.completions.create(model="toy", prompt=["abc", "xyz"], n=2, temperature=1, seed=1, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["bcab", "cabc", "yzxy", "zxyz"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 16)


@pytest.mark.parametrize("prompt", [[97, 98], [[97, 98]], ["ab"]])
def test_prompts_may_be_token_ids(client: openai.OpenAI, prompt: list[int]) -> None:
    assert client.completions.create(model="toy", prompt=prompt, max_tokens=3).choices[0].text == "aba"


def test_echo_and_completion_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="ab", max_tokens=2, echo=True, logprobs=1)
    (choice,) = answer.choices
    assert choice.text == "abab"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "a", "b"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5, -0.5]
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    assert choice.logprobs.top_logprobs == [None, {"b": -0.5}, {"a": -0.5}, {"b": -0.5}]


def test_scoring_a_prompt_generates_nothing(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="abc", max_tokens=0, echo=True, logprobs=2)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("abc", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["a", "b", "c"]
    assert choice.logprobs.top_logprobs == [None, {"b": -0.5, "c": -1.5}, {"c": -0.5, "d": -1.5}]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_chat_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="toy",
        messages=MESSAGES,  # type: ignore[arg-type]
        max_tokens=2,
        logprobs=True,
        top_logprobs=2,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == ["u", ":"]
    first = logprobs.content[0]
    assert (first.logprob, first.bytes) == (-0.5, [ord("u")])
    assert [(top.token, top.logprob) for top in first.top_logprobs] == [("u", -0.5), ("v", -1.5)]


def test_prompt_logprobs_as_vllm_has_them(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="toy", prompt="ab", max_tokens=1, extra_body={"prompt_logprobs": 1})
    entry = {"logprob": -0.5, "rank": 1, "decoded_token": "b"}
    assert answer.choices[0].prompt_logprobs == [None, {"98": entry}]  # type: ignore[attr-defined]


def test_token_ids_are_returned_on_demand(client: openai.OpenAI) -> None:
    extra = {"return_token_ids": True}
    answer = client.completions.create(model="toy", prompt="ab", max_tokens=3, extra_body=extra)
    assert answer.choices[0].token_ids == [97, 98, 97]  # type: ignore[attr-defined]
    assert answer.choices[0].prompt_token_ids == [97, 98]  # type: ignore[attr-defined]
    chat = client.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=1, extra_body=extra)  # type: ignore[arg-type]
    assert chat.prompt_token_ids == list(PROMPT.encode())  # type: ignore[attr-defined]


def test_the_sampling_extras_of_vllm_are_accepted(client: openai.OpenAI) -> None:
    extra = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "stop_token_ids": [99],
        "min_tokens": 1,
        "bad_words": ["zz"],
        "allowed_token_ids": [97, 98, 99],
        "spaces_between_special_tokens": True,
        "truncate_prompt_tokens": 3,
        "priority": 1,
        "cache_salt": "me",
        "request_id": "mine-1",
    }
    answer = client.completions.create(
        model="toy", prompt="zabc", max_tokens=9, logit_bias={"97": 1}, user="u", best_of=1, extra_body=extra
    )
    assert answer.id == "cmpl-mine-1"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("ab", "stop")
    assert answer.choices[0].stop_reason == 99  # type: ignore[attr-defined]


def test_a_chat_can_go_on_with_its_last_message(client: openai.OpenAI) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": "Well"}]}]
    answer = client.chat.completions.create(
        model="toy",
        messages=messages,  # type: ignore[arg-type]
        max_tokens=4,
        extra_body={"continue_final_message": True, "echo": True},
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("u:hello\na:Well")
    assert answer.choices[0].message.content == "Wellu:he"


def test_an_answer_can_be_sent_back_as_history(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=3).choices[0].message  # type: ignore[arg-type]
    history = [*MESSAGES, message.model_dump(), {"role": "user", "content": "and?"}]
    answer = client.chat.completions.create(
        model="toy",
        messages=history,  # type: ignore[arg-type]
        max_tokens=1,
        extra_body={"chat_template_kwargs": {"shout": True}},
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("u:hello\na:u:h\nu:and?\n!a:")


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("toy", "model", "flover")
    assert model.max_model_len == 2048  # type: ignore[attr-defined]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other/one")
    assert caught.value.code == "model_not_found"


# Streams


def test_a_streamed_chat_is_the_whole_chat_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="toy",
            messages=MESSAGES,  # type: ignore[arg-type]
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"
    first, *middle, closing, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert [chunk.choices[0].delta.content for chunk in middle] == list(repeated(PROMPT, 12))
    assert all(chunk.choices[0].finish_reason is None for chunk in [first, *middle])
    assert (closing.choices[0].finish_reason, closing.choices[0].delta.content) == ("length", None)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert usage.choices == []
    assert usage.usage is not None
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (len(PROMPT), 12)


def test_a_streamed_completion_is_the_whole_completion_in_pieces(client: openai.OpenAI) -> None:
    arguments = {"model": "toy", "prompt": ["abc", "äöü€"], "n": 2, "temperature": 1.0, "seed": 3, "max_tokens": 30}
    whole = client.completions.create(**arguments, logprobs=1, echo=True)  # type: ignore[call-overload]
    texts = [""] * 4
    tokens: list[list[str]] = [[] for _ in range(4)]
    offsets: list[list[int]] = [[] for _ in range(4)]
    reasons: list[list[str]] = [[] for _ in range(4)]
    for chunk in client.completions.create(**arguments, logprobs=1, echo=True, stream=True):  # type: ignore[call-overload]
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs is not None:
                tokens[choice.index] += choice.logprobs.tokens
                offsets[choice.index] += choice.logprobs.text_offset
            if choice.finish_reason is not None:
                reasons[choice.index].append(choice.finish_reason)
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert reasons == [["length"]] * 4


def test_a_character_of_many_tokens_is_never_split(client: openai.OpenAI) -> None:
    chunks = client.completions.create(model="toy", prompt="é€🙂", max_tokens=9, stream=True)
    texts = [chunk.choices[0].text for chunk in chunks]
    assert "".join(texts) == "é€🙂"
    assert [text for text in texts if text] == ["é", "€", "🙂"]


def test_a_stream_never_shows_a_part_of_its_stop_string(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="toy", prompt="abcdef", max_tokens=90, stop="cdefa", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "ab"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_usage_can_come_with_every_chunk(client: openai.OpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = client.completions.create(model="toy", prompt="abc", max_tokens=3, stream=True, stream_options=options)  # type: ignore[call-overload]
    assert [chunk.usage.completion_tokens for chunk in chunks] == [1, 2, 3, 3]
