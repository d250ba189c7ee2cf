"""How often an engine may be begun again."""

from flover.engine.restarts import RestartLimit


def test_so_many_restarts_within_so_many_seconds() -> None:
    limit = RestartLimit(3, 600)
    assert [limit.allow(at) for at in (0, 1, 2, 3, 599.9)] == [True, True, True, False, False]
    assert [limit.allow(at) for at in (600, 600.5, 601, 602)] == [True, False, True, True]
    assert not limit.allow(603)


def test_an_engine_that_dies_now_and_then_is_begun_again_for_ever() -> None:
    limit = RestartLimit(3, 600)
    assert all(limit.allow(200.0 * day) for day in range(1000))
