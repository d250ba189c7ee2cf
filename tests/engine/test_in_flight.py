"""What a reader gets of a request that another engine replays."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flover.errors import EngineError
from flover.request import Delta, FinishReason, Request, SamplingParams, TokenLogprobs
from flover.service.in_flight import MAX_ATTEMPTS, InFlightRequest
from flover.service.streams import Mailbox

TOKENS = list(range(100, 110))


def in_flight(n: int = 1) -> InFlightRequest:
    params = SamplingParams(n=n, temperature=1.0, max_tokens=len(TOKENS))
    made = InFlightRequest(Request(id="r", prompt_ids=[1, 2], params=params, seed=0), Mailbox({"r": n}))
    assert made.start_attempt(True)[1] == []
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
    request = in_flight()
    got: list[Delta] = []
    for life, edges in enumerate(lives):
        if life:
            assert request.start_attempt(True)[1] == []
        pieces = cut(TOKENS, edges)
        last = life == len(lives) - 1
        seen = pieces if last else pieces[: data.draw(st.integers(0, len(pieces) - 1))]
        for number, piece in enumerate(seen):
            reason = FinishReason.LENGTH if last and number == len(seen) - 1 else None
            fresh = request.accept(delta(piece, reason))
            if fresh is not None:
                got.append(fresh)
    assert [token for fresh in got for token in fresh.token_ids] == TOKENS
    assert [entry for fresh in got for entry in fresh.logprobs or []] == entries(TOKENS)
    assert [fresh.finish_reason for fresh in got][-1] is FinishReason.LENGTH
    assert all(fresh.finish_reason is None for fresh in got[:-1])


def test_other_tokens_or_an_earlier_end_are_an_error() -> None:
    for again in (delta([100, 999]), delta([100], FinishReason.STOP)):
        request = in_flight()
        request.accept(delta([100, 101]))
        request.start_attempt(True)
        with pytest.raises(EngineError, match="the next one"):
            request.accept(again)


def test_the_prompt_is_reported_once() -> None:
    request = in_flight()
    report = Delta(request_id="r", token_ids=[100], prompt_logprobs=[None, *entries([2])])
    first = request.accept(report)
    assert first is not None and first.prompt_logprobs is not None
    request.start_attempt(True)
    assert request.accept(report) is None
    fresh = request.accept(delta([101]))
    assert fresh is not None and fresh.prompt_logprobs is None


def test_ended_and_cancelled_sequences_are_cancelled_in_the_next_engine() -> None:
    request = in_flight(n=3)
    request.accept(delta(TOKENS, FinishReason.LENGTH, index=0))
    request.accept(delta([100], index=1))
    request.cancel(1)
    assert request.start_attempt(True)[1] == [0, 1]
    assert request.accept(delta([], FinishReason.ABORT, index=0)) is None, "its reader knows already"
    ended = request.accept(delta([], FinishReason.ABORT, index=1))
    assert ended is not None and ended.finish_reason is FinishReason.ABORT
    fresh = request.accept(delta([100], index=2))
    assert fresh is not None and fresh.token_ids == [100]


def test_a_request_is_not_given_to_ever_more_engines() -> None:
    async def scenario() -> None:  # mailboxes belong to a loop
        request = in_flight()
        for _ in range(MAX_ATTEMPTS - 1):
            assert request.may_retry
            request.start_attempt(True)
        assert not request.may_retry

    asyncio.run(scenario())


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4))
def test_an_engine_that_is_not_deterministic_continues_after_what_was_delivered(lives: list[list[int]]) -> None:
    """Each engine has other tokens; none of them is computed twice, and none is compared."""
    params = SamplingParams(n=2, temperature=1.0, max_tokens=99)
    tracked = InFlightRequest(Request(id="r", prompt_ids=[1], params=params, seed=0), Mailbox({"r": 2}))
    ended = [delta(TOKENS, FinishReason.LENGTH, index=0)]
    delivered: list[int] = []
    for life, sizes in enumerate(lives):
        sent, cancelled = tracked.start_attempt(False)
        assert sent.output_ids == ([[], delivered] if delivered else [])
        assert cancelled == ([0] if life else [])
        assert sent.prompt_ids == [1] and sent.params == params
        for news in ended:
            assert tracked.accept(news) == news
        ended = []
        for size in sizes:
            tokens = [100 * life + len(delivered) + i for i in range(size)]
            fresh = tracked.accept(delta(tokens, index=1))
            assert fresh is not None and fresh.token_ids == tokens
            delivered = delivered + tokens
    assert tracked.accept(delta([7], index=0)) is None, "its reader knows its end"
