"""Stop strings that hold special tokens, which are no part of the text; and texts of tokens as offsets need them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text import text_samples as samples

from flover.config import Limits
from flover.errors import RequestError
from flover.request import Delta, FinishReason, SamplingParams, TokenLogprobs
from flover.text.detokenizer import token_texts
from flover.text.prompts import check_text_limits
from flover.text.stops import StopMatcher, StopTable
from flover.text.stream import TextStream, text_start


def streamed(kind: str, ids: list[int], **fields: object) -> TextStream:
    """A stream that has been given these ids, one at a time, until it ended."""
    tokenizer, params = samples.load(kind), SamplingParams(max_tokens=100, logprobs=0, **fields)  # type: ignore[arg-type]
    stream = TextStream(tokenizer, params, text_start(tokenizer, params, [0]))
    for token in ids:
        entry = TokenLogprobs([token], [0.0], [1])
        piece = stream.feed(Delta(request_id="x", token_ids=[token], logprobs=[entry]))
        if stream.finished:
            assert piece.cancel
            return stream
    stream.feed(Delta(request_id="x", finish_reason=FinishReason.LENGTH))
    return stream


def ids_of(kind: str, text: str) -> list[int]:
    return samples.load(kind).encode(text, add_special_tokens=False)


@pytest.mark.parametrize("kind", samples.KINDS)
@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("The fox<|user|>river", "<|user|>", "The fox"),
        ("The fox<|user|>river", "x<|user|>", "The fo"),
        ("The fox<|user|><|assistant|>", "<|user|><|assistant|>", "The fox"),
        ("The fox<|user|>river", "<|assistant|>", "The foxriver"),
    ],
)
def test_a_stop_string_may_hold_special_tokens(kind: str, text: str, stop: str, shown: str) -> None:
    stream = streamed(kind, ids_of(kind, text), stop=[stop])
    assert stream.text.replace(" ", "") == shown.replace(" ", "")
    assert stream.stop_reason == (stop if stop in text else None)


def test_a_stop_string_may_go_on_after_a_special_token() -> None:
    stream = streamed("byte_level", ids_of("byte_level", "The fox<|user|>\nriver"), stop=["<|user|>\n"])
    assert (stream.text, stream.stop_reason) == ("The fox", "<|user|>\n")


def test_a_special_stop_string_is_shown_where_stop_strings_are_included() -> None:
    ids = ids_of("byte_level", "The fox<|user|>river")
    stream = streamed("byte_level", ids, stop=["<|user|>"], include_stop_str_in_output=True)
    assert stream.text == "The fox<|user|>"


def test_special_tokens_that_are_shown_stop_as_any_text_does() -> None:
    ids = ids_of("byte_level", "The fox<|user|>river")
    stream = streamed("byte_level", ids, stop=["x<|us"], skip_special_tokens=False)
    assert (stream.text, stream.stop_reason) == ("The fo", "x<|us")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.text("ab<", max_size=4), st.booleans()), max_size=8),
    st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=4),
    st.booleans(),
)
def test_hidden_text_takes_part_in_the_search_and_is_not_shown(
    pieces: list[tuple[str, bool]], stops: list[str], include: bool
) -> None:
    """Against a search through the whole text."""
    matcher = StopMatcher(StopTable(stops), include=include)
    shown = "".join(matcher.feed(text, hidden=hidden) for text, hidden in pieces) + matcher.finish()
    whole = "".join(text for text, _ in pieces)
    visible = [not hidden for text, hidden in pieces for _ in text]
    ends = [(whole.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in whole]
    if not ends:
        assert matcher.matched is None
        assert shown == "".join(char for char, seen in zip(whole, visible, strict=True) if seen)
        return
    end, _, stop = min(ends)
    assert matcher.matched == stop
    before = "".join(char for char, seen in zip(whole[: end - len(stop)], visible, strict=False) if seen)
    if not include:
        assert shown == before
    elif all(visible[:end]):
        assert shown == before + stop


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(samples.KINDS), st.text(max_size=12), st.lists(st.integers(0, 330), max_size=10), st.booleans())
def test_texts_of_tokens_are_the_text_cut_in_pieces(kind: str, text: str, extra: list[int], skip: bool) -> None:
    tokenizer = samples.load(kind)
    ids = ids_of(kind, text.encode(errors="replace").decode()) + extra
    texts = token_texts(tokenizer, ids, skip_special_tokens=skip)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=skip)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(samples.KINDS), st.lists(st.integers(0, 330), max_size=12))
def test_a_stream_tells_what_each_token_added(kind: str, ids: list[int]) -> None:
    stream = streamed(kind, ids)
    assert len(stream.token_texts) == len(ids)
    assert "".join(stream.token_texts) == stream.text


@pytest.mark.parametrize("text", ["東京", "<think hard>", "naïve", "đem", "č"])
def test_added_tokens_are_their_own_text(text: str) -> None:
    """Also those whose characters stand for single bytes in the alphabet of a byte-level tokenizer."""
    tokenizer = samples.with_added_tokens(["naïve", "đem", "č"])
    ids = tokenizer.encode(f"a {text} b", add_special_tokens=False)
    assert tokenizer.decode(ids) == f"a {text} b"
    assert tokenizer.token_id(text) in ids


def test_the_text_of_the_first_token_is_not_doubled() -> None:
    """A text that begins with the beginning-of-sequence token's text has one such token, not two."""
    tokenizer = samples.load("sentencepiece")
    plain = tokenizer.encode("The fox")
    assert plain[0] == tokenizer.bos_id != plain[1]
    assert tokenizer.encode("<s>The fox")[:2].count(plain[0]) == 1
    assert tokenizer.encode("<s><s>The fox")[:3].count(plain[0]) == 2


LIMITS = Limits(max_stop_strings=2, max_stop_bytes=4, max_bad_words=1, max_bad_word_bytes=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": ["a"] * 3}, r"stop may hold at most 2 strings \(--max-stop-strings\), got 3"),
        ({"stop": "12345"}, r"stop is 5 bytes long, at most 4 are allowed \(--max-stop-bytes\)"),
        ({"stop": ["a", "ééé"]}, r"stop\[1\] is 6 bytes long"),
        ({"bad_words": ["a", "b"]}, r"bad_words may hold at most 1 strings \(--max-bad-words\), got 2"),
        ({"bad_words": ["abcd"]}, r"bad_words is 4 bytes long, at most 3 are allowed \(--max-bad-word-bytes\)"),
    ],
)
def test_texts_to_search_for_have_limits(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_text_limits(SamplingParams(**fields), LIMITS)  # type: ignore[arg-type]
    check_text_limits(SamplingParams(stop=["1234", "éé"], bad_words=["abc"]), LIMITS)
