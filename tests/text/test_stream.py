"""From deltas to text: stop strings end a sequence at the right token, and nothing is lost or shown twice."""

from __future__ import annotations

import pytest
import text_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.request import Delta, FinishReason, SamplingParams, TokenLogprobs
from flover.text.stream import TextPiece, TextStream, text_start


def run(
    ids: list[int], params: SamplingParams, reason: FinishReason = FinishReason.LENGTH, size: int = 1
) -> tuple[TextStream, list[TextPiece]]:
    """Feed ids in deltas of `size`; the last delta has the finish reason."""
    tokenizer = samples.load("byte_level")
    stream = TextStream(tokenizer, params, text_start(tokenizer, params, [0]))
    chunks = [ids[i : i + size] for i in range(0, len(ids), size)] or [[]]
    pieces = []
    for number, chunk in enumerate(chunks):
        entries = [TokenLogprobs([token], [-1.0], [1]) for token in chunk]
        last = number == len(chunks) - 1
        pieces.append(
            stream.feed(
                Delta(
                    request_id="r",
                    token_ids=chunk,
                    logprobs=entries if params.logprobs is not None else None,
                    finish_reason=reason if last else None,
                )
            )
        )
    return stream, pieces


def encode(text: str) -> list[int]:
    return samples.load("byte_level").encode(text)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab 🦊", max_size=20),
    stop=st.text("ab 🦊", min_size=1, max_size=3),
    size=st.integers(1, 5),
    include=st.booleans(),
)
def test_pieces_add_up_to_the_text_cut_at_the_stop_string(text: str, stop: str, size: int, include: bool) -> None:
    ids = encode(text)
    stream, pieces = run(ids, SamplingParams(stop=stop, include_stop_str_in_output=include), size=size)
    found = text.find(stop)
    expected = text if found < 0 else text[: found + (len(stop) if include else 0)]
    assert stream.text == "".join(piece.text for piece in pieces) == expected
    assert [token for piece in pieces for token in piece.token_ids] == stream.token_ids
    assert sum(piece.finish_reason is not None for piece in pieces) == 1
    if found >= 0:
        assert (stream.finish_reason, stream.stop_reason) == ("stop", stop)
        tokenizer = samples.load("byte_level")
        assert stop in tokenizer.decode(stream.token_ids)
        assert stop not in tokenizer.decode(stream.token_ids[:-1])
    else:
        assert (stream.finish_reason, stream.stop_reason, stream.token_ids) == ("length", None, ids)


def test_a_stop_string_asks_to_cancel_unless_the_engine_has_ended_too() -> None:
    ids = encode("a fox b fox")
    _, pieces = run(ids, SamplingParams(stop="fox"))
    assert sum(piece.cancel for piece in pieces) == 1
    assert not any(piece.text for piece in pieces[[piece.cancel for piece in pieces].index(True) + 1 :])
    _, pieces = run(encode("a fox"), SamplingParams(stop="fox"))
    assert pieces[-1].finish_reason == "stop"
    assert not any(piece.cancel for piece in pieces)


def test_news_after_the_end_is_ignored() -> None:
    stream, _ = run(encode("a fox b"), SamplingParams(stop="fox", logprobs=0))
    tokens, text = list(stream.token_ids), stream.text
    late = Delta(request_id="r", token_ids=[5], finish_reason=FinishReason.ABORT)
    assert stream.feed(late) == TextPiece()
    assert (stream.token_ids, stream.text, stream.finish_reason) == (tokens, text, "stop")


def test_log_probabilities_stay_with_their_tokens() -> None:
    stream, pieces = run(encode("a fox b c"), SamplingParams(stop="fox", logprobs=0), size=100)
    assert stream.logprobs is not None
    assert [entry.token_ids[0] for entry in stream.logprobs] == stream.token_ids
    assert pieces[0].logprobs == tuple(stream.logprobs)
    assert run(encode("a"), SamplingParams())[1][0].logprobs is None


def test_the_text_of_the_token_that_ends_a_sequence_is_left_out() -> None:
    ids = [*encode("a fox"), *encode("!")]
    stream, _ = run(ids, SamplingParams(stop_token_ids=[ids[-1]]), FinishReason.STOP)
    assert (stream.text, stream.token_ids) == ("a fox", ids)
    kept = SamplingParams(stop_token_ids=[ids[-1]], include_stop_str_in_output=True)
    assert run(ids, kept, FinishReason.STOP)[0].text == "a fox!"


def test_text_held_back_comes_with_the_last_piece() -> None:
    stream, pieces = run(encode("a f"), SamplingParams(stop="fox"))
    assert pieces[-1].text.endswith("f")
    assert stream.text == "a f"


def test_min_tokens_protects_the_first_tokens_from_stop_strings() -> None:
    ids = encode("a")
    many = ids * 6
    stream, _ = run(many, SamplingParams(stop="a", min_tokens=4))
    assert (stream.text, len(stream.token_ids), stream.stop_reason) == ("aaaa", 5, "a")


@pytest.mark.parametrize("detokenize", [True, False])
def test_without_a_tokenizer_or_detokenization_only_ids_pass(detokenize: bool) -> None:
    tokenizer = None if detokenize else samples.load("byte_level")
    params = SamplingParams(detokenize=detokenize)
    stream = TextStream(tokenizer, params, text_start(tokenizer, params, [0]))
    piece = stream.feed(Delta(request_id="r", token_ids=[5, 6], finish_reason=FinishReason.LENGTH))
    assert (piece.text, piece.token_ids, piece.finish_reason) == ("", (5, 6), "length")


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_an_end_without_tokens_keeps_its_reason(reason: FinishReason) -> None:
    stream, pieces = run([], SamplingParams(), reason)
    assert (stream.finish_reason, pieces[-1].finish_reason, stream.text) == (reason, reason, "")
