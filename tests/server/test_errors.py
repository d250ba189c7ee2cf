"""What the server answers to the ways in which a request can end badly."""

from __future__ import annotations

import pytest

from flover import errors
from flover.server.errors import as_http_error

ANSWERS = [
    (errors.RequestError("no", param="n"), 400, None),
    (errors.EngineError("no"), 500, "generation_failed"),
    (errors.EngineDeadError("no"), 503, "service_unavailable"),
    (errors.RankLostError("no"), 503, "service_unavailable"),
    (errors.EngineClosedError("no"), 503, "service_unavailable"),
    (errors.RequestAbortedError("no"), 503, "service_unavailable"),
    (errors.OutOfResourcesError("no"), 503, "service_unavailable"),
]


@pytest.mark.parametrize(("error", "status", "code"), ANSWERS, ids=lambda value: type(value).__name__)
def test_each_error_has_its_status(error: errors.FloverError, status: int, code: str | None) -> None:
    answer = as_http_error(error)
    assert (answer.status, answer.message, answer.code) == (status, "no", code)


def test_what_was_not_foreseen_is_not_told() -> None:
    answer = as_http_error(ZeroDivisionError("a secret"))
    assert (answer.status, answer.code) == (500, "internal_error")
    assert "secret" not in answer.message
