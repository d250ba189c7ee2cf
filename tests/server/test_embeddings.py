"""`/v1/embeddings`: what clients send and get. The toy model's vector is (3, 4, first token)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.servers import ServerProcess, refused

from flover.server.embeddings import read_pooling


def test_as_the_official_client_asks(start: Callable[..., ServerProcess]) -> None:
    server = start(server={"pooling_type": "mean"})
    client = server.client()
    wanted = {first: np.array([3, 4, first]) / math.hypot(3, 4, first) for first in (97, 5)}
    answer = client.embeddings.create(model="toy", input="abc")  # as base64
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    np.testing.assert_allclose(answer.data[0].embedding, wanted[97], rtol=1e-6)
    answer = client.embeddings.create(model="toy", input=[[97, 98], [5]], encoding_format="float", user="u")
    assert [item.index for item in answer.data] == [0, 1]
    for item, first in zip(answer.data, (97, 5), strict=True):
        np.testing.assert_allclose(item.embedding, wanted[first], rtol=1e-6)
    assert client.embeddings.create(model="toy", input=[5], dimensions=2).data[0].embedding == pytest.approx([0.6, 0.8])
    for body, param, words in (
        ({"input": "a", "dimensions": 4}, "dimensions", "at most 3, got 4"),
        ({"input": []}, "input", "input is an empty list"),
        ({"input": [[1], []]}, "input", "empty"),
        ({"input": "a" * 5000}, "input", "maximum context length"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", 'be "float" or "base64"'),
        ({}, "input", "required"),
    ):
        error = refused(server.post("/v1/embeddings", body))
        assert error["param"] == param and words in error["message"], error
    server.until(lambda: server.metric("num_requests_running") == 0)


def test_a_model_that_embeds_nothing_says_so(server: ServerProcess, tmp_path: Path) -> None:
    error = refused(server.post("/v1/embeddings", {"input": "abc"}))
    assert error["param"] == "model" and "toy is not an embedding model" in error["message"]
    assert "--pooling-type" in error["message"]
    folder = tmp_path / "1_Pooling"
    folder.mkdir()
    for modes, wanted in (
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": False}, "last"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None),
        ({"pooling_mode_cls_token": True}, None),
    ):
        (folder / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))
        assert read_pooling(tmp_path) == wanted
