"""Requests of a benchmark fit the context of the model that is asked, or nothing is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fake_http import FakeHandler, FakeServer, serving
from hypothesis import given
from hypothesis import strategies as st

from flover.bench.serving.datasets import Draw, RandomPrompts, SampleRequest
from flover.bench.serving.fit import chat_tokens, check_lengths, fit_lengths
from flover.bench.serving.prepare import load_tokenizer, usable_ids
from flover.cli.main import main
from flover.errors import ConfigError

LENGTHS = ("random_input_len", "random_output_len")


@given(
    most=st.integers(1, 5000),
    lengths=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    prefix=st.integers(0, 2000),
    ratio=st.floats(0, 0.99),
    asked=st.sets(st.sampled_from(LENGTHS)),
    reserved=st.sampled_from([0, 64]),
)
def test_what_is_fitted_fits_and_what_was_asked_for_stays(
    most: int, lengths: tuple[int, int], prefix: int, ratio: float, asked: set[str], reserved: int
) -> None:
    given_set = RandomPrompts(
        random_input_len=lengths[0],
        random_output_len=lengths[1],
        random_prefix_len=prefix,
        random_range_ratio=ratio,
    )
    fitted, note = fit_lengths(given_set, most, asked, reserved)
    assert isinstance(fitted, RandomPrompts)
    for name in LENGTHS:
        assert getattr(fitted, name) <= getattr(given_set, name)
        if name in asked:
            assert getattr(fitted, name) == getattr(given_set, name)
    samples = fitted.samples(20, Draw(seed=0))
    if note is not None:
        check_lengths(samples, most, reserved)
    else:
        assert fitted == given_set
    if not asked and prefix + reserved <= most // 2 - 4 and ratio == 0:
        check_lengths(samples, most, reserved)


def test_the_defaults_on_a_context_of_1024() -> None:
    fitted, note = fit_lengths(RandomPrompts(), 1024, ())
    assert fitted == RandomPrompts(random_input_len=896, random_output_len=128)
    assert note is not None
    assert "1024 tokens: 896 in, 128 out" in note
    assert fit_lengths(RandomPrompts(), 4096, ()) == (RandomPrompts(), None)
    assert fit_lengths(RandomPrompts(), None, ()) == (RandomPrompts(), None)


def test_too_long_requests_are_counted_with_their_lengths() -> None:
    samples = [
        SampleRequest((1,) * 90, 10, 90),
        SampleRequest((1,) * 91, 10, 91),
        SampleRequest("a text of unknown length", 10),
    ]
    with pytest.raises(ConfigError, match=r"^1 of 3 requests do not fit .* of 100 tokens .* 91 prompt tokens, 10 out"):
        check_lengths(samples, 100)
    check_lengths(samples, None)
    check_lengths(samples[:1], 100)


def test_a_prompt_that_is_sent_as_text_may_come_back_longer() -> None:
    tokenizer = load_tokenizer("flover-tiny")
    assert tokenizer is not None
    samples = RandomPrompts(random_input_len=300).samples(5, Draw(seed=0, ids=usable_ids(tokenizer)))
    reserved = chat_tokens(samples, tokenizer)
    for sample in samples:
        text = tokenizer.decode(list(sample.prompt), skip_special_tokens=False)
        assert len(tokenizer.encode(text, add_special_tokens=False)) <= 300 + reserved - 64
    assert chat_tokens(samples, None) == 64


class Small(FakeHandler):
    """A server of two models that refuses what is longer than the context of the one that is named."""

    refusing = False
    contexts = {"small": 200, "large": 2000}

    def get(self) -> None:
        models = [{"id": name, "max_model_len": most} for name, most in self.contexts.items()]
        self.answer(200, json.dumps({"data": models}))

    def post(self, body: Any) -> None:
        self.server.seen.append(body)
        if self.refusing or len(body["prompt"]) + body["max_tokens"] > self.contexts[body["model"]]:
            self.answer(400, json.dumps({"error": {"message": "this one is too long"}}))
            return
        events = [{"choices": [{"index": 0, "text": "x", "finish_reason": None}]} for _ in range(body["max_tokens"])]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        lines = [f"data: {json.dumps(event)}\n\n" for event in (*events, {"choices": [], "usage": usage})]
        self.answer(200, "".join([*lines, "data: [DONE]\n\n"]))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving(Small) as made:
        yield made


def bench(server: FakeServer, *words: str, kind: str = "serve") -> int:
    return main(["bench", kind, "--base-url", server.url, "--num-prompts", "3", *words])


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        ([], (100, 100)),
        (["--random-output-len", "150"], (50, 150)),
        (["--random-input-len", "150"], (150, 50)),
        (["--model", "large"], (1024, 128)),
        (["--dataset-name", "random", "--output-len", "20"], (180, 20)),
    ],
)
def test_random_lengths_are_made_to_fit(
    server: FakeServer, capsys: pytest.CaptureFixture[str], words: list[str], lengths: tuple[int, int]
) -> None:
    assert bench(server, *words) == 0
    out = capsys.readouterr().out
    assert {(len(body["prompt"]), body["max_tokens"]) for body in server.seen} == {lengths}
    assert ("were reduced to" in out) == ("large" not in words)
    assert json.loads(out.splitlines()[-1])["completed"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--random-input-len", "100", "--random-output-len", "101"],
        ["--random-input-len", "200"],
        ["--dataset-name", "prefix_repetition", "--prefix-repetition-num-prefixes", "2"],
        ["--model", "large", "--input-len", "2000"],
    ],
)
def test_what_was_asked_for_and_does_not_fit_is_not_sent(
    server: FakeServer, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert bench(server, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("flover bench serve: error: 3 of 3 requests do not fit the model's context of 2")
    assert err.count("\n") == 1
    assert server.seen == []


@pytest.mark.parametrize(("kind", "words"), [("serve", []), ("sweep", ["--request-rates", "inf"])])
def test_when_all_requests_fail_the_first_error_is_shown(
    server: FakeServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    words: list[str],
) -> None:
    monkeypatch.setattr(Small, "refusing", True)
    assert bench(server, *words, kind=kind) == 1
    out, err = capsys.readouterr()
    assert "====" not in out
    assert err.startswith(f"flover bench {kind}: error: all ")
    assert err.endswith("failed; the first: 400: this one is too long\n")


def test_a_sweep_fits_its_lengths_too(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(server, "--request-rates", "inf", "1000", kind="sweep") == 0
    assert capsys.readouterr().out.count("were reduced to") == 1
    assert {(len(body["prompt"]), body["max_tokens"]) for body in server.seen} == {(100, 100)}
