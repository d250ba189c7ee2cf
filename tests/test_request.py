"""What is refused at the door, and in which words."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.facts import model_facts

from flover.errors import RequestError
from flover.memory.columns import PARAMETER_COLUMNS
from flover.request import Request, SamplingParams, check_request, resolve_max_tokens
from flover.sampling_checks import PARAMETERS

NUMBERS = {int, float}
FACTS = model_facts(vocab_size=100, max_model_len=64, pool_tokens=128, eos_ids=[2])


def make(prompt: list[int] | None = None, **params: Any) -> Request:
    return Request(id="r", prompt_ids=[1, 2, 3] if prompt is None else prompt, params=SamplingParams(**params), seed=0)


REFUSED: list[tuple[str, Any]] = [
    ("n", 0),
    ("n", 65),
    ("n", True),
    ("n", 1.5),
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("temperature", "1"),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_k", -2),
    ("top_k", 0.01),
    ("min_p", 1.5),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -2.5),
    ("repetition_penalty", 0),
    ("seed", 2**63),
    ("seed", 1.0),
    ("stop", [""]),
    ("stop", ["a"] * 1025),
    ("stop", [1]),
    ("stop", ["a", "\ud83d"]),
    ("stop", "\ud83d"),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", "1"),
    ("stop_token_ids", [2**31]),
    ("bad_words", [""]),
    ("bad_words", ["\udc00"]),
    ("max_tokens", 0),
    ("max_tokens", True),
    ("min_tokens", -1),
    ("logprobs", -2),
    ("logprobs", 21),
    ("prompt_logprobs", 21),
    ("ignore_eos", 1),
    ("detokenize", "yes"),
    ("truncate_prompt_tokens", 0),
    ("logit_bias", {1: 101}),
    ("logit_bias", {-1: 1}),
    ("logit_bias", [1]),
    ("logit_bias", dict.fromkeys(range(301), 0.0)),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [1.5]),
]


def test_every_number_among_the_parameters_is_in_the_table() -> None:
    numbers = {field.name for field in msgspec.structs.fields(SamplingParams) if set(get_args(field.type)) & NUMBERS}
    numbers |= {field.name for field in msgspec.structs.fields(SamplingParams) if field.type in NUMBERS}
    assert numbers == PARAMETERS.keys()
    assert {column.name for column in PARAMETER_COLUMNS} <= numbers
    assert {known.recommended for known in PARAMETERS.values() if known.gguf} <= PARAMETERS.keys()


@pytest.mark.parametrize(("field", "value"), REFUSED)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=field) as caught:
        SamplingParams(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"stop": "x", "detokenize": False}, "stop"),
        ({"spaces_between_special_tokens": False, "skip_special_tokens": False}, "spaces_between_special_tokens"),
    ],
)
def test_contradictions_are_refused(params: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**params)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("request_", "param", "words"),
    [
        (make([]), "prompt", "empty"),
        (make([1, 100]), "prompt", "token id 100 is out of range 0..99"),
        (make([-1]), "prompt", "token id -1"),
        (make([1] * 64, max_tokens=None), "prompt", "64"),
        (make(logit_bias={100: 1.0}), "logit_bias", "100"),
        (make(allowed_token_ids=[5, 100]), "allowed_token_ids", "100"),
        (make(stop_token_ids=[100]), "stop_token_ids", "100"),
        (make(allowed_token_ids=[2], min_tokens=1), "allowed_token_ids", "no token is left to choose"),
        (make(allowed_token_ids=[2, 5], min_tokens=1, stop_token_ids=[5]), "allowed_token_ids", "no token is left"),
    ],
)
def test_what_the_model_cannot_do_is_refused(request_: Request, param: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        check_request(request_, FACTS)
    assert caught.value.param == param


def test_a_request_larger_than_the_pool_is_refused() -> None:
    facts = msgspec.structs.replace(FACTS, pool_tokens=32)
    check_request(make([1] * 31, max_tokens=16), facts)
    with pytest.raises(RequestError, match="pool of 32") as caught:
        check_request(make([1] * 32, max_tokens=1), facts)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(("wanted", "least"), [(None, 62), (5, 0), (5, 5), (4, 0), (10**6, 9)])
def test_max_tokens_are_cut_to_the_room_that_the_prompt_leaves(wanted: int | None, least: int) -> None:
    params = resolve_max_tokens(make([1] * 60, max_tokens=wanted, min_tokens=least), FACTS).params
    assert params.max_tokens == 4
    assert params.min_tokens == min(least, 4)


def test_no_max_tokens_means_all_the_room() -> None:
    assert resolve_max_tokens(make(max_tokens=None), FACTS).params.max_tokens == 61


@given(
    st.dictionaries(
        st.sampled_from([field.name for field in msgspec.structs.fields(SamplingParams)]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=3),
            st.lists(st.one_of(st.integers(), st.text(max_size=2), st.none()), max_size=3),
            st.dictionaries(st.integers(), st.floats(), max_size=3),
        ),
        max_size=4,
    )
)
def test_any_parameters_are_either_taken_or_refused_and_cross_the_border_unchanged(fields: dict[str, Any]) -> None:
    try:
        params = SamplingParams(**fields)
    except RequestError as error:
        assert error.message
        return
    frame = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(frame, type=SamplingParams) == params
