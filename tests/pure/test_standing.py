"""What a reader gets of a request that begins again in another engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flover.errors import EngineError
from flover.request import Delta, FinishReason, Request, SamplingParams, TokenLogprobs
from flover.service.in_flight import MOST_BEGINNINGS, Standing
from flover.service.streams import Mailbox

TOKENS = list(range(100, 110))


def standing(n: int = 1) -> Standing:
    params = SamplingParams(n=n, temperature=1.0, max_tokens=len(TOKENS))
    made = Standing(Request(id="r", prompt_ids=[1, 2], params=params, seed=0), Mailbox({"r": n}))
    assert made.begin() == []
    return made


def entries(tokens: Sequence[int]) -> list[TokenLogprobs]:
    return [TokenLogprobs([token], [-1.0], [1]) for token in tokens]


def delta(tokens: Sequence[int], reason: FinishReason | None = None, index: int = 0) -> Delta:
    return Delta(request_id="r", index=index, token_ids=list(tokens), logprobs=entries(tokens), finish_reason=reason)


def cut(tokens: Sequence[int], at: Sequence[int]) -> list[Sequence[int]]:
    edges = [0, *sorted(at), len(tokens)]
    return [tokens[first:last] for first, last in pairwise(edges)]


@given(st.lists(st.lists(st.integers(0, 10), max_size=4), min_size=1, max_size=4), st.data())
def test_whatever_engines_die_when_the_reader_gets_each_token_once(lives: list[list[int]], data: st.DataObject) -> None:
    request = standing()
    got: list[Delta] = []
    for life, edges in enumerate(lives):
        if life:
            assert request.begin() == []
        pieces = cut(TOKENS, edges)
        last = life == len(lives) - 1
        seen = pieces if last else pieces[: data.draw(st.integers(0, len(pieces) - 1))]
        for number, piece in enumerate(seen):
            reason = FinishReason.LENGTH if last and number == len(seen) - 1 else None
            news = request.take(delta(piece, reason))
            if news is not None:
                got.append(news)
    assert [token for news in got for token in news.token_ids] == TOKENS
    assert [entry for news in got for entry in news.logprobs or []] == entries(TOKENS)
    assert [news.finish_reason for news in got][-1] is FinishReason.LENGTH
    assert all(news.finish_reason is None for news in got[:-1])


def test_other_tokens_or_an_earlier_end_are_an_error() -> None:
    for again in (delta([100, 999]), delta([100], FinishReason.STOP)):
        request = standing()
        request.take(delta([100, 101]))
        request.begin()
        with pytest.raises(EngineError, match="the next one"):
            request.take(again)


def test_the_prompt_is_reported_once() -> None:
    request = standing()
    report = Delta(request_id="r", token_ids=[100], prompt_logprobs=[None, *entries([2])])
    first = request.take(report)
    assert first is not None and first.prompt_logprobs is not None
    request.begin()
    assert request.take(report) is None
    news = request.take(delta([101]))
    assert news is not None and news.prompt_logprobs is None


def test_sequences_that_nobody_wants_any_more_are_cancelled_in_the_next_engine() -> None:
    request = standing(n=3)
    request.take(delta(TOKENS, FinishReason.LENGTH, index=0))
    request.take(delta([100], index=1))
    request.cancel(1)
    assert request.begin() == [0, 1]
    assert request.take(delta([], FinishReason.ABORT, index=0)) is None, "its reader knows already"
    ended = request.take(delta([], FinishReason.ABORT, index=1))
    assert ended is not None and ended.finish_reason is FinishReason.ABORT
    news = request.take(delta([100], index=2))
    assert news is not None and news.token_ids == [100]


def test_a_request_is_not_given_to_ever_more_engines() -> None:
    async def scenario() -> None:  # mailboxes belong to a loop
        request = standing()
        for _ in range(MOST_BEGINNINGS - 1):
            assert request.may_begin_again
            request.begin()
        assert not request.may_begin_again

    asyncio.run(scenario())
