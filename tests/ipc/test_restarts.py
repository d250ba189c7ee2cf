"""How often and how soon an engine may be started again."""

from hypothesis import given
from hypothesis import strategies as st

from flover.ipc.restarts import RestartLimit, Restarts


def test_so_many_restarts_within_so_many_seconds() -> None:
    limit = RestartLimit(3, 600)
    for at in (0.0, 1.0, 2.0):
        assert not limit.reached(at)
        limit.count(at)
    assert [limit.reached(at) for at in (2, 599.9, 600, 601)] == [True, True, False, False]


def test_an_engine_that_dies_now_and_then_is_begun_again_for_ever_and_at_once() -> None:
    restarts = Restarts()
    for day in range(1000):
        assert restarts.pause(700.0 * day) == 0.0
        restarts.attempted(700.0 * day)


def test_restarts_that_follow_each_other_come_later_and_later_and_then_no_more() -> None:
    restarts, now, pauses = Restarts(RestartLimit(8, 600)), 0.0, []
    while (pause := restarts.pause(now)) is not None:
        pauses.append(pause)
        now += pause
        restarts.attempted(now)
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30]


def test_what_the_machine_refuses_does_not_count_but_is_bounded_in_time() -> None:
    restarts, now, pauses = Restarts(patience=100.0), 0.0, []
    while (pause := restarts.pause(now)) is not None:
        pauses.append(pause)
        now += pause
        restarts.refused(now)
    assert pauses[:7] == [0, 1, 2, 4, 8, 16, 30]
    assert 100 <= now <= 131
    restarts = Restarts(patience=100.0)
    for at in (0.0, 1.0, 3.0, 7.0):
        restarts.refused(at)
    restarts.attempted(15.0)
    restarts.attempted(16.0)
    assert restarts.pause(99.0) == 2.0, "an engine that has started ends the time of refusals, and two may follow"


@given(st.lists(st.tuples(st.sampled_from(["attempted", "refused"]), st.floats(0, 5)), max_size=2000))
def test_whatever_happens_a_pause_is_bounded_and_so_are_the_attempts(events: list[tuple[str, float]]) -> None:
    restarts, now = Restarts(), 0.0
    attempts: list[float] = []
    for event, delay in events:
        pause = restarts.pause(now)
        if pause is None:
            return
        assert 0 <= pause <= 30
        now += pause + delay
        getattr(restarts, event)(now)
        attempts += [now] if event == "attempted" else []
        assert len([at for at in attempts if now - at < 600]) <= 3
