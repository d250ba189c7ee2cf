"""How a model is cut: every number is kept somewhere, the right ones more than once, and uneven cuts are refused."""

import dataclasses

import numpy as np
import pytest

from flover.errors import ConfigError
from flover.model.config import LayerConfig, ModelConfig, parameter_shapes
from flover.model.shard import Shard
from flover.ops import WeightFormat

CONFIG = ModelConfig(
    architecture="x",
    hidden_size=16,
    layers=(LayerConfig(attention_scale=1.0),) * 2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=2,
    intermediate_size=24,
    vocab_size=29,
    max_position_embeddings=64,
    qkv_bias=True,
    attention_out_bias=True,
    mlp_bias=True,
    head_bias=True,
    learned_positions=True,
)


def shares(config: ModelConfig, size: int, name: str, whole: np.ndarray) -> list[np.ndarray]:
    """Every rank's weight, filled from the whole one a few rows at a time."""
    found = []
    for rank in range(size):
        shard = Shard(rank, size)
        own = np.zeros(parameter_shapes(shard.config(config, "float32"))[name])
        cut = shard.cut(name, whole.shape, config)
        for first in range(0, len(whole), 5):
            rows = whole[first : first + 5]
            for place, count, at in cut.pieces(first, len(rows)):
                part = rows[place : place + count]
                own[at : at + count] = part if cut.part is None else part[:, cut.part.start :][:, : own.shape[1]]
        found.append(own)
    return found


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("gated", [True, False])
def test_every_share_fits_the_ranks_own_shape_and_all_of_the_model_is_kept(size: int, gated: bool) -> None:
    config = dataclasses.replace(CONFIG, gated=gated)
    for name, shape in parameter_shapes(config).items():
        whole = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
        kept = np.concatenate([own.ravel() for own in shares(config, size, name, whole)])
        assert set(whole.ravel()) <= set(kept), name


@pytest.mark.parametrize("size", [2, 4])
def test_shares_compute_what_the_whole_computes(size: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, CONFIG.hidden_size))
    shapes = parameter_shapes(CONFIG)
    up, down = (rng.normal(size=shapes[f"layers.0.{name}.weight"]) for name in ("up", "down"))
    bias = rng.normal(size=shapes["layers.0.down.bias"])
    gate, value = np.split(x @ up.T, 2, axis=1)
    expected = (gate * value) @ down.T + bias
    total = np.zeros_like(expected)
    for own_up, own_down in zip(
        shares(CONFIG, size, "layers.0.up.weight", up), shares(CONFIG, size, "layers.0.down.weight", down), strict=True
    ):
        gate, value = np.split(x @ own_up.T, 2, axis=1)
        total += (gate * value) @ own_down.T
    for own_bias in shares(CONFIG, size, "layers.0.down.bias", bias):  # every rank adds it to the sum of all
        np.testing.assert_allclose(total + own_bias, expected)


def test_ranks_beyond_the_key_heads_share_them() -> None:
    rows = np.arange(CONFIG.qkv_size, dtype=float)[:, None] * np.ones(CONFIG.hidden_size)
    found = [list(own[:, 0].astype(int)) for own in shares(CONFIG, 8, "layers.1.qkv.weight", rows)]
    assert found[0] == [0, 1, 16, 17, 24, 25]
    assert found[1] == [2, 3, 16, 17, 24, 25]
    assert found[7] == [14, 15, 22, 23, 30, 31]


def test_the_vocabulary_is_dealt_out_with_a_row_of_zeros_for_everybody_elses_tokens() -> None:
    spans = [Shard(rank, 4).tokens(29) for rank in range(4)]
    assert spans == [(0, 8), (8, 16), (16, 24), (24, 29)]
    table = np.ones((29, CONFIG.hidden_size))
    last = shares(CONFIG, 4, "embed.weight", table)[-1]
    assert last[:5].all() and not last[5:].any()


@pytest.mark.parametrize(
    ("changes", "size", "kind", "message"),
    [
        ({}, 3, "float32", "attention heads: 8"),
        ({"intermediate_size": 25}, 2, "float32", "inner width: 25"),
        ({"num_heads": 12, "num_kv_heads": 3}, 2, "float32", "3 key/value heads"),
        ({}, 4, "int8", "attention output of 16 into parts of 4, but int8 weights keep 16 "),
        ({"head_dim": 32}, 2, "int8", "inner width of 24 into parts of 12, but int8 weights keep 8 "),
        ({"head_dim": 32}, 2, "int4", "inner width of 24 into parts of 12, but int4 weights keep 32 "),
        ({"intermediate_size": 256}, 2, "int4", "attention output of 16 into parts of 8, but int4"),
        (
            {"head_dim": 64, "intermediate_size": 11008},
            4,
            "int8",
            "inner width of 11008 into parts of 2752, but int8 weights keep 128 ",
        ),
    ],
)
def test_cuts_that_cannot_be_are_refused_with_the_numbers(
    changes: dict[str, int], size: int, kind: WeightFormat, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"--tensor-parallel-size {size}.*{message}"):
        Shard(0, size).config(dataclasses.replace(CONFIG, **changes), kind)


def test_cuts_between_what_is_quantized_together_are_not_refused() -> None:
    config = dataclasses.replace(CONFIG, head_dim=32, intermediate_size=256)
    for kind in ("int8", "int4"):
        assert Shard(1, 2).config(config, kind).intermediate_size == 128
