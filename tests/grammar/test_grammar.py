"""Constraints without a model: what they are checked for, what their grammars accept, and how a mask is applied."""

from __future__ import annotations

import json
import random
import threading
from typing import Any

import pytest
from support.constraints import VOCABULARY, allowed, compiler, walk

from flover.errors import EngineError, RequestError
from flover.grammar.compiler import MAX_KEPT, Compiler
from flover.grammar.masks import MaskThread
from flover.grammar.state import GrammarState
from flover.request import SamplingParams
from flover.structured_outputs import (
    MAX_CHOICES,
    MAX_REGEX_BYTES,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    MAX_WHITESPACE,
    StructuredOutputsParams,
)


def params(**fields: Any) -> StructuredOutputsParams:
    return StructuredOutputsParams(**fields)


ODD = ["yes", "yes, and", 'say "no"', "back\\slash", "a\nb", "tab\t/", "\\d+", "日本", "😀", "a\x7f\x01", "(x|y)", "'"]


@pytest.mark.parametrize(
    ("fields", "good", "bad"),
    [
        ({"choice": ODD}, ODD, ["no", "yes,", "日", "x", "back", "7"]),
        ({"regex": r"^[a-z]{2,3}/\d+$"}, ["ab/1", "abc/123"], ["a/1", "ab/", "ab/٣", "AB/1", "ab/1 "]),
        ({"regex": r"(yes|no)\n\w+"}, ["yes\nx", "no\nx_1"], ["yes", "yes\né"]),
        ({"grammar": 'start: "a" start "b" | "c"'}, ["c", "acb", "aacbb"], ["ab", "acbb", ""]),
        ({"grammar": 'root ::= "<" body ">"\nbody ::= [0-9]+ ("," body)?'}, ["<1>", "<1,22>"], ["<>", "<1,>", "1"]),
        ({"json_object": True}, ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1", '{"a"}', "{} ", ""]),
        (
            {"json": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
            ["[]", "[1, 2]", "[\n  1\n]", f"[{' ' * MAX_WHITESPACE}1]"],
            ["[1,2,3]", "[1.5]", f"[{' ' * (MAX_WHITESPACE + 1)}1]"],
        ),
        ({"json": '{"const": [1]}', "disable_any_whitespace": True}, ["[1]"], ["[ 1]"]),
        ({"json": {"const": [1]}, "whitespace_pattern": "[ ]{1,2}"}, ["[  1 ]"], ["[   1]", "[\n1]"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_constraint_accepts_what_it_says_and_nothing_else(
    fields: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    constraint = params(**fields)
    assert {text: walk(constraint, text) for text in good} == dict.fromkeys(good, True)
    assert {text: walk(constraint, text) for text in bad} == dict.fromkeys(bad, False)


def test_only_what_the_tokens_before_say_counts() -> None:
    """A state that has followed an answer, one that begins after it (as after a preemption), one of a compiler that has
    seen others: the same masks."""
    constraint = params(json={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})
    rng, fresh = random.Random(1), Compiler(VOCABULARY, len(VOCABULARY.tokens), [1])
    followed = compiler().state(constraint, ())
    answer: list[int] = []
    for _ in range(40):
        mask = followed.words().copy()
        assert (compiler().state(constraint, answer).words() == mask).all()
        assert (fresh.state(constraint, answer).words() == mask).all()
        token = rng.choice(allowed(mask))
        if token == 1:
            break
        answer.append(token)
        followed.add(token)
    assert len(answer) > 5
    assert not followed.error


def test_what_comes_after_the_end_is_void_and_costs_nothing() -> None:
    constraint = params(choice=["a"])
    state = compiler().state(constraint, [VOCABULARY.tokens.index(b"a")])
    for _ in range(3):
        assert allowed(state.words()) == [1]
        state.add(1)
    assert not state.error
    assert compiler().has(constraint)


def test_a_token_outside_of_the_grammar_is_an_error() -> None:
    state = compiler().state(params(choice=["yes"]), ())
    state.add(VOCABULARY.tokens.index(b"n"))
    assert not state.words().any()
    assert state.error


def test_what_has_become_too_complex_for_one_has_not_for_others() -> None:
    """Copies of a compiled grammar share a lexer. Each gets at least as far as alone, with the same masks, and the next
    one begins afresh."""
    constraint = params(regex="(.*a.{0,200}){20}")

    def follow(states: list[GrammarState], first: int = 0) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in states]
        draws = [random.Random(first + number) for number in range(len(states))]
        for _ in range(60):
            for state, answer, draw in zip(states, answers, draws, strict=True):
                found = [] if state.error else allowed(state.words())
                if found:
                    answer.append(draw.choice(found))
                    state.add(answer[-1])
        return answers

    alone = []
    for number in range(4):
        own = Compiler(VOCABULARY, len(VOCABULARY.tokens), [1])
        alone.append(follow([own.state(constraint, ())], first=number)[0])
    shared = Compiler(VOCABULARY, len(VOCABULARY.tokens), [1])
    crowd = follow([shared.state(constraint, ()) for _ in range(4)])
    assert max(map(len, alone)) < 60  # it is too complex for all of them
    assert [answer[: len(own)] for answer, own in zip(crowd, alone, strict=True)] == alone
    assert shared.state(constraint, ()).words().any()
    with pytest.raises(RequestError, match="too many expressions"):
        shared.try_out(params(regex="((.*[a-m].{0,50})+[n-z].{20,90}){3,30}"))


class Slow:
    """A state whose mask is made when the test says so."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.may, self.done, self.failure = threading.Event(), False, failure

    def build(self) -> None:
        assert self.may.wait(20)
        if self.failure is not None:
            raise self.failure
        self.done = True


def test_masks_are_made_beside_the_forward_and_waited_for_after_it() -> None:
    thread, slow, panic = MaskThread(), Slow(), Slow(SystemExit("a panic is no Exception"))
    thread.finish()  # nothing was begun
    thread.start([slow])  # type: ignore[list-item]
    assert not slow.done
    slow.may.set()
    thread.finish()
    assert slow.done
    panic.may.set()
    thread.start([panic])  # type: ignore[list-item]
    with pytest.raises(EngineError, match="a panic is no Exception"):
        thread.finish()
    again = Slow()
    again.may.set()
    thread.start([again])  # type: ignore[list-item]
    thread.close()
    assert again.done


def test_a_schema_cannot_make_itself_lenient() -> None:
    for schema in (
        '{"x-guidance": {"lenient": true}, "type": "array", "uniqueItems": true}',
        '{"type": "array", "uniqueItems": true, "x-guidance": {"lenient": true}  }\n',
        '{"items": {"x-guidance": {"lenient": true}, "not": {}}}',
    ):
        with pytest.raises(RequestError, match="Unimplemented keys"):
            compiler().prepare(params(json=schema))
    compiler().prepare(params(json="{ }"))


def test_what_is_compiled_is_kept_up_to_a_number() -> None:
    own = Compiler(VOCABULARY, len(VOCABULARY.tokens), [1])
    for number in range(MAX_KEPT + 1):
        own.prepare(params(choice=[str(number)]))
    assert not own.has(params(choice=["0"]))
    assert own.has(params(choice=["1"]))
    own.state(params(choice=["0"]), ())  # compiled again
    assert own.has(params(choice=["0"]))
    assert not own.has(params(choice=["1"]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one of json, regex, choice, grammar, json_object, got none"),
        ({"json": {}, "choice": ["a"]}, "got json and choice"),
        ({"json_object": False}, "got none"),
        ({"json": 5}, "must be a JSON Schema, an object, got 5"),
        ({"json": "[]"}, "must be a JSON Schema, an object, got a list of 0"),
        ({"json": "{"}, "is not JSON"),
        ({"json": {"a": float("nan")}}, "is not JSON"),
        ({"json": {"a": {1}}}, "is not JSON"),
        ({"json": {"a": "x" * MAX_SCHEMA_BYTES}}, f"at most {MAX_SCHEMA_BYTES} bytes"),
        ({"json": '{"a":' * 33 + "1" + "}" * 33}, f"at most {MAX_SCHEMA_DEPTH} objects"),
        ({"json": '{"a":' * 60_000}, "at most"),
        ({"regex": 5}, "must be a regular expression, a string, got 5"),
        ({"regex": "a" * (MAX_REGEX_BYTES + 1)}, f"at most {MAX_REGEX_BYTES} bytes"),
        ({"regex": "\ud800"}, "half of a surrogate pair"),
        ({"choice": "yes"}, "must be a list of strings"),
        ({"choice": [5]}, r"choice\[0\] must be a string"),
        ({"choice": [""]}, r"choice\[0\] is an empty string"),
        ({"choice": []}, "choice is empty"),
        ({"choice": ["x"] * (MAX_CHOICES + 1)}, f"at most {MAX_CHOICES} strings"),
        ({"choice": ["x" * 1000] * 70}, "at most 65536 bytes"),
        ({"grammar": "a" * 70_000}, "at most 65536 bytes"),
        ({"choice": ["a"], "disable_any_whitespace": True}, "a matter of JSON, not of choice"),
        ({"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "}, "exclude each other"),
        ({"json": {}, "whitespace_pattern": "a" * 2000}, "at most"),
    ],
)
def test_sizes_and_kinds_are_checked_before_anything_is_compiled(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        params(**fields)
    assert refused.value.param == "structured_outputs"


def test_brackets_inside_of_strings_are_no_depth() -> None:
    params(json={"enum": ["[{" * 100 + '\\"']})
    assert json.loads(params(json={"enum": ["é"]}).json or "") == {"enum": ["é"]}


@pytest.mark.parametrize(
    "other", [{"ignore_eos": True}, {"min_tokens": 1}, {"allowed_token_ids": [1]}, {"bad_words": ["a"]}]
)
def test_what_could_leave_no_token_is_refused(other: dict[str, Any]) -> None:
    constraint = params(choice=["a"])
    SamplingParams(structured_outputs=constraint, logit_bias={5: -100.0}, stop=["x"], stop_token_ids=[5], n=2)
    with pytest.raises(RequestError, match="cannot be combined with structured_outputs"):
        SamplingParams(structured_outputs=constraint, max_tokens=5, **other)
    with pytest.raises(RequestError, match="must be StructuredOutputsParams"):
        SamplingParams(structured_outputs={"choice": ["a"]})  # type: ignore[arg-type]
