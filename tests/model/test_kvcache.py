"""The pool of pages takes memory as it is touched and gives it back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from flover.errors import ConfigError
from flover.memory.kvcache import KVCache
from flover.ops import HostArray
from flover.ops.reference import page_shapes

MIB = 2**20


@dataclass(frozen=True)
class Shape:
    num_layers: int = 2
    num_kv_heads: int = 4
    head_dim: int = 64


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def pools_of(kv: KVCache) -> list[HostArray]:
    return [pool for pages in kv.layers for pool in (pages.keys, pages.values)]


def test_int8_pages_have_a_scale_for_each_token_and_head() -> None:
    kv = KVCache(Shape(), num_pages=5, page_size=16, dtype="int8", page_shapes=page_shapes)
    for pages in kv.layers:
        assert pages.key_scales is not None
        assert pages.key_scales.shape == pages.value_scales.shape == (5, 4, 16)
    assert kv.bytes == 2 * 2 * 5 * 16 * 4 * (64 + 4)


def test_pages_have_the_promised_shape_and_are_apart() -> None:
    kv = KVCache(Shape(), num_pages=5, page_size=16, dtype="bfloat16", page_shapes=page_shapes)
    pools = pools_of(kv)
    assert len(kv.layers) == 2
    for number, pool in enumerate(pools):
        assert pool.shape == (5, 16, 4, 64)
        assert pool.dtype == np.uint16
        assert (pool == 0).all()
        pool.fill(number + 1)
    assert all((pool == number + 1).all() for number, pool in enumerate(pools))
    assert kv.bytes == sum(pool.nbytes for pool in pools)


def test_memory_is_committed_when_touched_and_falls_after_trim() -> None:
    before = resident()
    kv = KVCache(Shape(), num_pages=4096, page_size=16, dtype="float32", page_shapes=page_shapes)
    assert kv.bytes == 256 * MIB
    assert resident() - before < 16 * MIB
    used = 1024
    for pool in pools_of(kv):
        pool[1 : used + 1] = 1
    full = resident()
    assert full - before > 60 * MIB
    kept = list(range(101, 201))
    kv.trim([page for page in range(1, used + 1) if page not in kept])
    assert full - resident() > 50 * MIB
    for pool in pools_of(kv):
        assert (pool[kept] == 1).all()
        assert (pool[1:101] == 0).all()
        pool[1] = 2  # and it can be used again
        assert (pool[1] == 2).all()


def test_pages_smaller_than_the_systems_keep_their_neighbours() -> None:
    kv = KVCache(
        Shape(num_kv_heads=1, head_dim=4), num_pages=600, page_size=3, dtype="float32", page_shapes=page_shapes
    )
    pools = pools_of(kv)
    for pool in pools:
        pool[:] = 1
    trimmed = [0, *range(1, 590, 1), 595]
    kept = [page for page in range(1, 600) if page not in trimmed]
    kv.trim(trimmed)
    for pool in pools:
        assert (pool[kept] == 1).all()
        assert (pool[0] == 1).all()  # the null page is not anybody's to trim
        assert (pool[300] == 0).all()


def test_close_gives_everything_back_and_can_be_repeated() -> None:
    kv = KVCache(Shape(), num_pages=1024, page_size=16, dtype="float32", page_shapes=page_shapes)
    for pool in pools_of(kv):
        pool.fill(1)
    pool = kv.layers[0].keys
    full = resident()
    kv.close()
    kv.close()
    assert full - resident() > 50 * MIB
    assert kv.layers == ()
    assert pool.shape[0] == 1024  # somebody still holds it: no crash


def test_impossible_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot reserve"):
        KVCache(Shape(), num_pages=2**40, page_size=16, dtype="float32", page_shapes=page_shapes)
