"""What may be open at once: prompts and sequences, counted before anything is tokenized."""

from __future__ import annotations

import pytest

from flover.config import Limits, ServerConfig
from flover.errors import RequestError
from flover.server.admission import AdmissionControl, RequestSize
from flover.server.errors import HttpError

CONFIG = ServerConfig(max_num_queued_reqs=4, limits=Limits(max_request_seqs=6, max_open_seqs=8))


def admission() -> tuple[AdmissionControl, list[int]]:
    rejected: list[int] = []
    return AdmissionControl(CONFIG, lambda: rejected.append(1)), rejected


@pytest.mark.parametrize(
    ("size", "param", "numbers"),
    [
        (RequestSize(5, 5), "prompt", ["5", "4", "--max-num-queued-reqs"]),
        (RequestSize(1, 7), "n", ["7", "6", "--max-request-seqs"]),
        (RequestSize(2, 8), "n", ["2 prompts", "n = 4", "8 sequences"]),
    ],
)
def test_what_could_never_come_in_is_refused_by_name(size: RequestSize, param: str, numbers: list[str]) -> None:
    counts, rejected = admission()
    with pytest.raises(RequestError) as caught, counts.enter(size):
        pass
    assert caught.value.param == param
    assert all(number in caught.value.message for number in numbers)
    assert not rejected and counts.idle.is_set()


def test_what_cannot_come_in_now_gets_a_429_until_others_have_left() -> None:
    counts, rejected = admission()
    first = RequestSize(1, 6)
    with counts.enter(first) as keep:
        keep()
    assert not counts.idle.is_set()
    for size, words in (
        (RequestSize(1, 3), "6 sequences are open and 3 more"),
        (RequestSize(4, 1), "1 requests are open and 4 more"),
    ):
        with pytest.raises(HttpError, match=words) as caught, counts.enter(size):
            pass
        assert caught.value.status == 429
    assert len(rejected) == 2
    counts.leave(first)
    assert counts.idle.is_set()
    with counts.enter(RequestSize(1, 3)):
        assert not counts.idle.is_set()
    assert counts.idle.is_set()


def test_a_request_that_fails_on_its_way_in_is_open_no_longer() -> None:
    counts, _ = admission()
    with pytest.raises(ValueError, match="broken"), counts.enter(RequestSize(1, 1)):
        raise ValueError("broken")
    assert counts.idle.is_set()
