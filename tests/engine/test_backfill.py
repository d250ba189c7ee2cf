"""Backfill is computed while nothing else is there, and only then."""

from __future__ import annotations

import msgspec
from support.toy import make_engine, request, run

from flover.request import Request


def backfill(name: str, max_tokens: int = 40) -> Request:
    return msgspec.structs.replace(request(name, max_tokens=max_tokens), client=" backfill", backfill=True)


def test_it_gives_rows_and_pages_to_what_comes_and_goes_on_after_it() -> None:
    """All rows and all pages are taken; a request that comes has both in the next iteration, alone. Nothing is lost."""
    engine, executor = make_engine(rows=2, pages=23, page_size=4)
    for name in ("b0", "b1", "b2"):
        engine.submit(backfill(name))
    deltas = [delta for _ in range(20) for delta in engine.step()]
    assert {delta.request_id for delta in deltas} == {"b0", "b1"}
    engine.submit(request("live", prompt_len=40, max_tokens=8))
    first = engine.step()
    assert [delta.request_id for delta in first] == ["live"] and [work.row for work in executor.plans[-1].work] == [0]
    last = run(engine)
    ends = [delta.request_id for delta in (*deltas, *first, *last) if delta.finish_reason]
    assert ends == ["live", "b0", "b1", "b2"]
    for name in ("b0", "b1", "b2"):
        tokens = [one for delta in (*deltas, *first, *last) if delta.request_id == name for one in delta.token_ids]
        assert tokens == list(range(tokens[0], tokens[0] + 40))


def test_it_never_enters_beside_a_request_that_runs() -> None:
    engine, executor = make_engine(rows=4)
    engine.submit(request("live", max_tokens=5))
    engine.step()
    engine.submit(backfill("b"))
    for _ in range(4):
        engine.step()
        assert len(executor.plans[-1].work) == 1
    assert [delta.request_id for delta in engine.step()] == ["b"]
