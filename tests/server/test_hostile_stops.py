"""Random stop lists, from the body of a request to the text of the answer: refused by name beyond their limits, else a
sequence ends where a search through its whole text says."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from text import text_samples as samples

from flover.config import Limits
from flover.errors import RequestError
from flover.request import Delta, FinishReason, SamplingParams
from flover.server.body import read_body
from flover.server.params import completion_params
from flover.server.protocol import CompletionBody
from flover.text.prompts import check_text_limits
from flover.text.stops import StopTable
from flover.text.stream import TextStream, text_start

LIMITS = Limits(max_stop_strings=4, max_stop_bytes=24)
TOKENIZER = samples.load("byte_level")
WORDS = ["a", "b", "ab", "é", "🦊", "<|user|>", "<|assistant|>", "</s>"]
stop = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("".join),
    st.sampled_from(["", "\ud83d", "a\udd8a", "<|user", "🦊" * 6, "🦊" * 6 + "a", "a" * 24, "a" * 25, "ab" * 5000]),
)
stops = stop | st.lists(stop, max_size=6)
answer = st.lists(st.sampled_from(WORDS), max_size=8)


def fault(stops: str | list[str]) -> bool:
    """Whether a list is beyond what a server may be asked for."""
    strings = [stops] if isinstance(stops, str) else stops
    if stops in ("", []):
        return False  # asks for nothing
    halves = any(0xD800 <= ord(char) < 0xE000 for one in strings for char in one)
    return halves or len(strings) > 4 or any(not one or len(one.encode()) > 24 for one in strings)


def asked(stops: str | list[str], **more: Any) -> SamplingParams:
    """What the server makes of a body with these stop strings. Raises `RequestError`."""
    data = json.dumps({"prompt": "a", "stop": stops, "max_tokens": 100, **more}).encode()
    params = completion_params(read_body(data, CompletionBody, LIMITS), {}, detokenize=True)
    check_text_limits(params, LIMITS)
    return params


def cut(words: list[str], stops: list[str], include: bool) -> tuple[str, str | None]:
    """The text of an answer and what ended it, by looking at every beginning of the whole text: with the special tokens
    that are not shown, if a stop string holds one."""
    if not any(map(TOKENIZER.holds_special, stops)):
        words = [word for word in words if not word.startswith("<")]
    whole = "".join(words)
    seen = "".join(("0" if word.startswith("<") else "1") * len(word) for word in words)
    for end in range(1, len(whole) + 1):
        complete = [stop for stop in stops if whole[:end].endswith(stop)]
        if complete:
            found = max(complete, key=len)
            start = end - len(found)
            shown = "".join(char for char, show in zip(whole[:start], seen, strict=False) if show == "1")
            return shown + found * include, found
    return "".join(word for word in words if not word.startswith("<")), None


@settings(max_examples=400)
@given(stops=stops, words=answer, include=st.booleans())
def test_any_stop_list_is_refused_by_name_or_ends_the_text_where_it_is_found(
    stops: str | list[str], words: list[str], include: bool
) -> None:
    try:
        params = asked(stops, include_stop_str_in_output=include)
    except RequestError as error:
        assert fault(stops), error
        assert error.param == "stop"
        assert len(error.message) < 300
        error.message.encode()
        return
    assert not fault(stops)
    table = StopTable(params.stop_strings)
    start = text_start(TOKENIZER, params, [0], stops=table)
    assert start.stops is table, "one table for all sequences"
    assert sum(map(len, table.borders)) <= 4 * (24 + 1)
    streams = [TextStream(TOKENIZER, params, start) for _ in range(2)]
    ids = [token for word in words for token in TOKENIZER.encode(word, add_special_tokens=False)]
    for stream in streams:
        for token in ids:
            stream.feed(Delta(request_id="r", token_ids=[token]))
        stream.feed(Delta(request_id="r", finish_reason=FinishReason.LENGTH))
        assert (stream.text, stream.stop_reason) == cut(words, params.stop_strings, include)
