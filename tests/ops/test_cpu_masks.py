"""The largest logit that a mask allows: as numpy says it, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flover.ops import HostArray
from flover.ops.cpu import cpu_ops
from flover.ops.order import argmax
from ops.bridge import OWN_ISAS

SHARES = (0.0, 0.0001, 0.05, 0.5, 0.95, 0.9999, 1.0)
WAYS: dict[str, Callable[..., tuple[HostArray, HostArray]]] = {
    "numpy": argmax,
    **{isa: cpu_ops(isa, 2).argmax for isa in OWN_ISAS},
}


def masks_of(allowed: HostArray) -> HostArray:
    """Words of 32 tokens; the bits behind the vocabulary are ones, and say nothing."""
    bits = np.ones((len(allowed), -(-allowed.shape[1] // 32) * 32), dtype=bool)
    bits[:, : allowed.shape[1]] = allowed
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", [1, 15, 16, 17, 31, 32, 33, 2048, 40_003])
def test_a_mask_leaves_what_it_allows(width: int, way: str) -> None:
    rng = np.random.default_rng(width)
    logits = rng.normal(size=(len(SHARES), width)).astype(np.float32)
    allowed = rng.random(logits.shape) < np.array(SHARES)[:, None]
    wanted = np.where(allowed, logits, np.float32(-np.inf))
    best, ids = WAYS[way](logits, masks_of(allowed))
    assert (logits == wanted).all()
    assert (best == wanted.max(-1)).all()
    assert (ids == np.where(allowed.any(-1), wanted.argmax(-1), -1)).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("unusable", [np.nan, np.inf])
@pytest.mark.parametrize("is_allowed", [False, True])
def test_logits_that_are_no_numbers_are_seen_behind_a_mask(way: str, unusable: float, is_allowed: bool) -> None:
    logits = np.zeros((3, 50), dtype=np.float32)
    logits[1, 37] = unusable
    allowed = np.ones(logits.shape, dtype=bool)
    allowed[:, :40] = is_allowed
    best, ids = WAYS[way](logits, masks_of(allowed))
    np.testing.assert_array_equal(best, [0, unusable, 0])
    assert ids.tolist() == [0 if is_allowed else 40, -1, 0 if is_allowed else 40]
