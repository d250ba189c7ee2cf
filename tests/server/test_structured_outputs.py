"""Structured outputs through the server, with the bundled model: every form, streamed and not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import psutil
import pydantic
import pytest
from support.json_schemas import COUNT, SCHEMAS, an_object

SERVE = [sys.executable, "-m", "flover", "serve", "--port=0", "--num-threads=1", "--kv-cache-memory-bytes=32MiB"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a server with the bundled model, whose engine has the vocabulary before any request."""
    process = subprocess.Popen(SERVE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert found is not None
        while "ready:" not in process.stdout.readline():
            assert process.poll() is None
        deadline = time.monotonic() + 20
        while not has_grammars(process.pid):
            assert time.monotonic() < deadline, "the engine did not prepare structured outputs"
            time.sleep(0.05)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield found.group()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()


def has_grammars(server: int) -> bool:
    """Whether the engine of this server has loaded what it compiles constraints with."""
    (engine,) = psutil.Process(server).children()
    return "llguidance" in Path(f"/proc/{engine.pid}/maps").read_text()


def ask(url: str, path: str = "chat/completions", **fields: Any) -> httpx.Response:
    prompt = {"prompt": "Once"} if path == "completions" else {"messages": [{"role": "user", "content": "Who?"}]}
    body = {"max_tokens": 400, "seed": 7, **prompt, **fields}
    return httpx.post(f"{url}/v1/{path}", json=body, timeout=30)


def whole(url: str, path: str, **fields: Any) -> tuple[list[str], list[str]]:
    """Texts and finish reasons of the choices, which must be the same streamed and not."""
    answer = ask(url, path, **fields)
    assert answer.status_code == 200, answer.text
    choices = answer.json()["choices"]
    texts = [one["text"] if path == "completions" else one["message"]["content"] for one in choices]
    reasons = [one["finish_reason"] for one in choices]
    streamed, ends = [""] * len(choices), [""] * len(choices)
    for line in ask(url, path, stream=True, **fields).iter_lines():
        if line.startswith("data: {"):
            (one,) = json.loads(line[6:])["choices"]
            streamed[one["index"]] += one["text"] if path == "completions" else one["delta"].get("content") or ""
            ends[one["index"]] = one["finish_reason"] or ends[one["index"]]
    assert (streamed, ends) == (texts, reasons)
    return texts, reasons


PERSON = SCHEMAS["person"]
WRAPPED = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_every_form_streamed_and_not(url: str, path: str) -> None:
    for fields in (
        {"response_format": WRAPPED},
        {"structured_outputs": {"json": PERSON}},
        {"structured_outputs": {"json": json.dumps(PERSON), "disable_any_whitespace": True}, "n": 3},
    ):
        texts, reasons = whole(url, path, **fields)
        assert set(reasons) == {"stop"}
        for text in texts:
            jsonschema.validate(json.loads(text), PERSON)
    expected = whole(url, path, structured_outputs={"json": PERSON})
    elsewhere = [{"type": kind, "schema": PERSON} for kind in ("json_object", "json_schema")]
    assert all(whole(url, path, response_format=form) == expected for form in (WRAPPED, *elsewhere))
    (text,), _ = whole(url, path, response_format={"type": "json_object"})
    assert isinstance(json.loads(text), dict)
    (text,), _ = whole(url, path, structured_outputs={"choice": ["red", "green"]}, temperature=0)
    assert text in ("red", "green")
    (text,), _ = whole(url, path, structured_outputs={"regex": r"[A-Z]{2}-\d{3}"})
    assert re.fullmatch("[A-Z]{2}-[0-9]{3}", text)
    nested, shown = {"grammar": 'root ::= "(" [a-z] root? ")"'}, {"logprobs": 1 if path == "completions" else True}
    (text,), _ = whole(url, path, structured_outputs=nested, **shown)
    assert re.fullmatch(r"(\([a-z])+\)+", text)


def test_what_else_ends_an_answer(url: str) -> None:
    regex = {"regex": "[a-z]{30,40}"}
    (text,), reasons = whole(url, "completions", structured_outputs=regex)
    assert reasons == ["stop"]
    assert 30 <= len(text) <= 40
    (cut,), reasons = whole(url, "completions", structured_outputs=regex, max_tokens=5)
    assert reasons == ["length"]
    assert text.startswith(cut)
    (cut,), reasons = whole(url, "completions", structured_outputs=regex, stop=text[5:8])
    assert reasons == ["stop"]
    assert cut == text[: text.index(text[5:8])]


def test_the_official_client_parses_a_model(url: str) -> None:
    class Person(pydantic.BaseModel):
        name: str = pydantic.Field(max_length=12)
        born: int = pydantic.Field(ge=1900, le=2025)

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.parse(
        model="flover-tiny", messages=[{"role": "user", "content": "Who?"}], response_format=Person, seed=3
    )
    found = answer.choices[0].message.parsed
    assert found is not None
    assert 1900 <= found.born <= 2025


def test_others_notice_nothing_of_a_hostile_constraint(url: str) -> None:
    """A request that comes while a constraint takes all the time that it may."""
    story = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}
    alone = ask(url, "completions", **story).json()["choices"]
    slow = {"json": {"allOf": [{"pattern": f"[a-z]{{{number}}}.*x"} for number in range(1, 600)]}}
    answers: list[httpx.Response] = []
    attack = threading.Thread(target=lambda: answers.append(ask(url, structured_outputs=slow)))
    attack.start()
    assert ask(url, "completions", **story).json()["choices"] == alone
    assert not answers  # it is still being compiled
    attack.join(30)
    assert answers[0].status_code == 400
    assert answers[0].json()["error"]["param"] == "structured_outputs"
    assert "2 s of processor time" in answers[0].json()["error"]["message"]
    assert whole(url, "completions", structured_outputs={"choice": ["still here"]})[0] == ["still here"]


def test_a_call_that_is_asked_for_follows_the_schema(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    tools: Any = [
        {"type": "function", "function": {"name": "save", "parameters": PERSON}},
        {"type": "function", "function": {"name": "stop"}},
    ]
    for choice, reason in (("required", "tool_calls"), ({"type": "function", "function": {"name": "save"}}, "stop")):
        answer = client.chat.completions.create(
            model="flover-tiny",
            messages=[{"role": "user", "content": "Who?"}],
            tools=tools,
            tool_choice=choice,
            parallel_tool_calls=False,
            max_tokens=600,
            seed=5,
        )
        (one,) = answer.choices
        (call,) = one.message.tool_calls or []
        assert one.finish_reason == reason
        assert call.type == "function" and call.function.name in ("save", "stop")
        if call.function.name == "save":
            jsonschema.validate(json.loads(call.function.arguments), PERSON)


def test_of_all_tools_only_those_that_are_allowed_are_called(url: str) -> None:
    """In both APIs, streamed and not; the template has all tools, whatever is allowed."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    functions: list[Any] = [{"type": "function", "name": name, "parameters": an_object(x=COUNT)} for name in "abc"]
    tools: Any = [
        {"type": "function", "function": {key: one[key] for key in one if key != "type"}} for one in functions
    ]
    brace = httpx.post(f"{url}/tokenize", json={"prompt": "{", "add_special_tokens": False}).json()["tokens"]
    asked: Any = {"model": "flover-tiny", "tools": tools, "messages": [{"role": "user", "content": "Who?"}], "n": 2}
    asked |= {"max_tokens": 80, "seed": 3, "temperature": 1.5, "parallel_tool_calls": False}
    size = client.chat.completions.create(**asked).usage.prompt_tokens
    for mode in ("auto", "required"):
        allowed = [{"type": "function", "function": {"name": "b"}}]
        # In mode auto a text is as good; a call, which begins with a brace, is what this asks for.
        asked["logit_bias"] = {str(brace[0]): 30} if mode == "auto" else None
        asked["tool_choice"] = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
        answer = client.chat.completions.create(**asked)
        assert answer.usage.prompt_tokens == size
        calls = [(choice.message.tool_calls or [None])[0] for choice in answer.choices]
        assert all(call and call.type == "function" and call.function.name == "b" for call in calls)
        found = [call.function.arguments for call in calls if call and call.type == "function"]
        streamed = [""] * 2
        for chunk in client.chat.completions.create(stream=True, **asked):
            for one in chunk.choices:
                for call in one.delta.tool_calls or []:
                    streamed[one.index] += call.function.arguments
        assert streamed == found
        choice: Any = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "c"}]}
        fields: Any = {
            "input": "Who?",
            "tools": functions,
            "tool_choice": choice,
            "max_output_tokens": 200,
            "temperature": 0,
        }
        response = client.responses.create(model="flover-tiny", **fields)
        assert {getattr(item, "name", "c") for item in response.output} <= {"c"}
        assert mode == "auto" or [item.type for item in response.output] == ["function_call"]


def test_a_call_that_may_be_or_a_text_of_the_format(url: str) -> None:
    """Either has its schema, the model decides, and a stream brings the same."""
    schema = {"$ref": "#/$defs/n", "$defs": {"n": an_object(no=COUNT)}}
    tools = [{"type": "function", "function": {"name": name, "parameters": an_object(x=COUNT)}} for name in ("a", "b")]
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    fields = {"tools": tools, "response_format": form, "n": 8, "temperature": 2}
    found: list[list[Any]] = []
    for choice in ask(url, **fields).json()["choices"]:
        calls = choice["message"].get("tool_calls") or []
        found.append([choice["message"]["content"] or "", *(one["function"]["arguments"] for one in calls)])
        assert choice["finish_reason"] == ("tool_calls" if calls else "stop")
        assert not calls or (calls[0]["function"]["name"] in "ab" and found[-1][0] == "")
        jsonschema.validate(json.loads(found[-1][-1]), an_object(x=COUNT) if calls else schema)
    assert {len(one) for one in found} == {1, 2}, "always a call, or never one"
    streamed: list[list[Any]] = [[""] for _ in found]
    for line in ask(url, stream=True, **fields).iter_lines():
        if line.startswith("data: {"):
            (one,) = json.loads(line[6:])["choices"]
            into = streamed[one["index"]]
            into[0] += one["delta"].get("content") or ""
            for call in one["delta"].get("tool_calls") or []:
                into += [""] if "id" in call else []
                into[-1] += call["function"]["arguments"]
    assert streamed == found
    bad = {"type": "function", "function": {"name": "f", "parameters": {"not": {"type": "string"}}}}
    for more, words in (
        ({"response_format": form}, "tools and response_format cannot be compiled: "),
        ({"tool_choice": "required"}, "tools cannot be compiled: "),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [bad]}}, "tools cannot be compiled: "),
    ):
        error = ask(url, tools=[bad, tools[0]], **more).json()["error"]
        assert error["param"] == "tools" and error["message"].startswith(words)
