"""Clients take turns: what one sends a lot of does not hold another up."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec
import pytest
from support.toy import make_engine, request, run

from flover.engine.fairness import FairShares
from flover.request import Request


def of(client: str, name: str, prompt_len: int = 4, max_tokens: int = 4) -> Request:
    return msgspec.structs.replace(request(name, prompt_len=prompt_len, max_tokens=max_tokens), client=client)


def test_a_light_client_does_not_wait_for_the_queue_of_a_heavy_one() -> None:
    engine, _ = make_engine(rows=2)
    for number in range(20):
        engine.submit(of("heavy", f"h{number}"))
    engine.step()
    engine.submit(of("light", "l"))
    ends = [delta.request_id for delta in run(engine) if delta.finish_reason]
    assert ends.index("l") <= 2
    assert [name for name in ends if name != "l"] == [f"h{number}" for number in range(20)]


def test_with_one_client_it_is_first_come_first_served() -> None:
    engine, _ = make_engine(rows=1)
    for number in (3, 1, 2):
        engine.submit(of("one", f"r{number}"))
    assert [delta.request_id for delta in run(engine) if delta.finish_reason] == ["r3", "r1", "r2"]
    assert not engine.roster.shares.counts


def test_both_get_the_same_while_both_wait() -> None:
    """Long requests of one, short ones of the other: the difference stays within a bound that does not grow (the
    paper's theorem): twice the most that one iteration's admissions can cost."""
    engine, _ = make_engine(rows=4, pages=400)
    rng = Random(3)
    for number in range(60):
        engine.submit(of("long", f"a{number}", rng.randrange(10, 20), rng.randrange(10, 30)))
    for number in range(400):
        engine.submit(of("short", f"b{number}", rng.randrange(1, 4), rng.randrange(1, 4)))
    served, apart = engine.roster.shares._served, []
    while {"long", "short"} <= {sequence.request.client for sequence in engine.roster.waiting} or not served:
        engine.step()
        apart.append(abs(served["long"] - served["short"]))
    assert len(apart) > 100
    assert max(apart) <= 2 * 4 * (20 + 2 * 30)


def test_who_comes_back_is_not_paid_for_its_absence() -> None:
    shares = FairShares()
    shares.arrive("busy", 1)
    shares.charge("busy", 1000, 0)
    shares.arrive("new", 1)
    assert shares._served == {"busy": 1000, "new": 1000}
    shares.leave("new")
    shares.charge("busy", 500, 100)
    shares.arrive("new", 1)
    assert shares._served["new"] == shares._served["busy"] == 1700


@pytest.mark.parametrize("num_clients", [5000])
def test_the_table_stays_small(num_clients: int) -> None:
    shares = FairShares()
    for number in range(num_clients):
        shares.arrive(f"c{number}", 1)
        shares.charge(f"c{number}", number, 0)
        shares.leave(f"c{number}")
    assert len(shares._served) < 2000


def test_a_client_of_three_times_the_weight_gets_three_times_as_much() -> None:
    engine, _ = make_engine(rows=2)
    for number in range(120):
        for client, weight in (("one", 1.0), ("three", 3.0)):
            engine.submit(msgspec.structs.replace(of(client, f"{client}{number}"), weight=weight))
    ends = Counter[str]()
    while sum(ends.values()) < 100:
        ends.update(delta.request_id.rstrip("0123456789") for delta in engine.step() if delta.finish_reason)
    assert 70 <= ends["three"] <= 80
