"""Rotary, the write to the pages and attention on the CPU: against float64 formulas on what the pages hold, and the
same bits for a row in any company, chunks, pages, threads and instruction set."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import Ops, Pages
from flover.ops.cpu_layout import page_shapes
from ops.bridge import OWN_ISAS, torch_ops
from ops.spec import DTYPES

ISAS = OWN_ISAS
CACHES = (torch.float32, torch.bfloat16, torch.int8)
CACHE_IDS = ("float32", "bfloat16", "int8")


@functools.cache
def ops_of(isa: str, num_threads: int = 1) -> Ops:
    return torch_ops(isa, num_threads)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model's attention, and how its keys and values are kept."""

    dim: int = 16
    kv_heads: int = 2
    share: int = 2
    cache: torch.dtype = torch.float32
    page_size: int = 16
    scores: tuple[float, Tensor | None, Tensor | None] = (0.0, None, None)  # bound, slopes, sinks

    @property
    def heads(self) -> int:
        return self.kv_heads * self.share

    def pages(self, count: int) -> Pages:
        """Pages full of what must never be read: NaN, or numbers under a scale of NaN."""
        shapes = page_shapes(count, self.page_size, self.kv_heads, self.dim)
        if self.cache != torch.int8:
            keys, values = (torch.full(shape, torch.nan, dtype=self.cache) for shape in shapes)
            return Pages(keys, values, self.page_size, DTYPES[self.cache])
        keys, values = (torch.full(shape, 77, dtype=self.cache) for shape in shapes)
        scales = [torch.full((count, self.kv_heads, self.page_size), torch.nan) for _ in range(2)]
        return Pages(keys, values, self.page_size, DTYPES[self.cache], *scales)


@dataclass
class World:
    """Pages and the rows that live in them; row i has the tokens of `stories[i]`, [length, heads, dim]."""

    shape: Shape
    stories: list[Tensor]
    pages: Pages
    tables: list[list[int]]

    @classmethod
    def of(cls, shape: Shape, stories: list[Tensor], seed: int = 0) -> World:
        """Pages dealt in random order; page 0 is nobody's."""
        counts = [-(-len(story) // shape.page_size) for story in stories]
        order = (torch.randperm(sum(counts), generator=torch.Generator().manual_seed(seed)) + 1).tolist()
        dealt = iter(order)
        tables = [[next(dealt) for _ in range(count)] for count in counts]
        return cls(shape, stories, shape.pages(len(order) + 1), tables)

    def slots(self, row: int, start: int, stop: int) -> list[int]:
        size = self.shape.page_size
        return [self.tables[row][position // size] * size + position % size for position in range(start, stop)]

    def step(
        self, ops: Ops, pieces: Sequence[tuple[int, int, int]], window: int | None, turns: bool = True
    ) -> list[Tensor]:
        """Write and attend: for every (row, start, stop) the tokens start..stop of a row; outputs [tokens, h * d]."""
        qkv = torch.cat([self.stories[row][start:stop] for row, start, stop in pieces])
        positions = torch.tensor([p for _, start, stop in pieces for p in range(start, stop)], dtype=torch.int64)
        slots = torch.tensor([slot for piece in pieces for slot in self.slots(*piece)], dtype=torch.int64)
        cos = sin = None
        if turns:
            cos, sin = ops.angles(positions, torch.logspace(0, -3, self.shape.dim // 2), 1.0)
        queries = ops.rotary_write(qkv, self.shape.heads, cos, sin, False, self.pages, slots)
        width = max((len(self.tables[row]) for row, _, _ in pieces), default=1)
        lens = [stop - start for _, start, stop in pieces]
        starts = torch.tensor([0, *itertools.accumulate(lens)], dtype=torch.int32)
        contexts = torch.tensor([stop for _, _, stop in pieces], dtype=torch.int32)
        padded = [self.tables[row] + [0] * (width - len(self.tables[row])) for row, _, _ in pieces]
        table = torch.tensor(padded, dtype=torch.int32).view(len(pieces), width)
        plan = ops.plan_attention(table, starts, contexts, lens, contexts.tolist(), self.pages, frozenset([window]))
        return list(
            ops.attention(queries, self.pages, plan, self.shape.dim**-0.5, window, *self.shape.scores).split(lens)
        )

    def kept(self, row: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a row's first positions as the pages hold them, float64 [length, kv_heads, dim]."""
        page, offset = torch.tensor(self.slots(row, 0, length)).view(-1, 1).expand(-1, 2).clone().T
        page, offset = page // self.shape.page_size, offset % self.shape.page_size
        keys, values = self.pages.keys[page, :, :, offset].double(), self.pages.values[page, :, offset].double()
        if self.pages.key_scales is not None and self.pages.value_scales is not None:
            keys = keys * self.pages.key_scales[page, :, offset][..., None].double()
            values = values * self.pages.value_scales[page, :, offset][..., None].double()
        return keys, values


def stories_of(shape: Shape, lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    heads = shape.heads + 2 * shape.kv_heads
    return [normal(seed + 100 * number, length, heads, shape.dim) for number, length in enumerate(lengths)]


def eight_bits(queries: Tensor) -> Tensor:
    """Queries as kernels multiply them with keys in int8: 127 steps to the largest number of each head, float64."""
    reach = queries.abs().amax(-1, keepdim=True)
    inverse = torch.full_like(reach, 127) / reach  # 127 / reach would be 127 times the rounded 1 / reach
    return (queries * inverse).round().double() * (reach / 127).double()


def exact_attention(
    queries: Tensor, keys: Tensor, values: Tensor, start: int, window: int | None, shape: Shape
) -> Tensor:
    """Float64: `queries` [T, h, d] at positions start.. over `keys`, `values` [L, k, d]."""
    softcap, slopes, sinks = shape.scores
    share = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
    scores = torch.einsum("thd,lhd->thl", queries.double(), keys) * queries.shape[2] ** -0.5
    positions, seen = start + torch.arange(len(queries))[:, None], torch.arange(len(keys))[None]
    visible = (seen <= positions) & (seen > positions - (window or len(keys) + 1))
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        scores = scores + slopes.double()[:, None] * (seen - positions)[:, None]
    weights = scores.masked_fill(~visible[:, None], -torch.inf).exp()
    total = weights.sum(-1, keepdim=True) + (0 if sinks is None else sinks.double().exp()[:, None])
    return torch.einsum("thl,lhd->thd", weights / total, values).flatten(1)


def scores_of(kind: str, heads: int) -> tuple[float, Tensor | None, Tensor | None]:
    """Bound, slopes and sinks, those that the kind has."""
    return (
        1.5 if kind in ("softcap", "all") else 0.0,
        normal(1, heads).abs() if kind in ("slopes", "all") else None,
        2 * normal(2, heads) if kind in ("sinks", "all") else None,
    )


@settings(max_examples=160)
@given(
    st.sampled_from([1, 12, 16, 80, 128]),
    st.sampled_from([1, 4, 7]),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 3, 16, 32, 48]),
    st.sampled_from(CACHES),
    st.sampled_from([None, 1, 5, 64, 70, 1000]),
    st.lists(st.tuples(st.integers(0, 140), st.integers(1, 20)), min_size=1, max_size=4),
    st.sampled_from(ISAS),
    st.sampled_from([1, 2]),
    st.sampled_from(["plain", "softcap", "slopes", "sinks", "all"]),
)
def test_attention_of_any_size(
    dim: int,
    share: int,
    kv_heads: int,
    page_size: int,
    cache: torch.dtype,
    window: int | None,
    rows: list[tuple[int, int]],
    isa: str,
    num_threads: int,
    kind: str,
) -> None:
    """Rows with some tokens in the pages and some that come now; all other slots hold NaN."""
    scores = scores_of(kind, kv_heads * share)
    shape = Shape(dim=dim, kv_heads=kv_heads, share=share, cache=cache, page_size=page_size, scores=scores)
    ops = ops_of(isa, num_threads)
    world = World.of(shape, stories_of(shape, [before + now for before, now in rows]))
    before = [(row, 0, start) for row, (start, _) in enumerate(rows) if start]
    if before:
        world.step(ops, before, window, turns=False)
    pieces = [(row, start, start + count) for row, (start, count) in enumerate(rows)]
    outputs = world.step(ops, pieces, window, turns=False)
    for (row, start, stop), output in zip(pieces, outputs, strict=True):
        queries = world.stories[row][start:stop, : shape.heads]
        queries = eight_bits(queries) if shape.cache == torch.int8 else queries
        keys, values = world.kept(row, stop)
        wanted = exact_attention(queries, keys, values, start, window, shape)
        assert output.shape == wanted.shape
        assert (output.double() - wanted).abs().max() <= 1e-5 * values.abs().max()


@pytest.mark.parametrize("cache", CACHES, ids=CACHE_IDS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dim", [1, 12, 80])
def test_pages_hold_what_was_written(dim: int, isa: str, cache: torch.dtype) -> None:
    """Exactly in float32, rounded to nearest even in bfloat16, within half a step of the head's largest in int8."""
    shape = Shape(dim=dim, kv_heads=3, share=2, cache=cache, page_size=5)
    world = World.of(shape, stories_of(shape, [13, 1, 7]))
    world.stories[0][3] = 0.0
    world.step(ops_of(isa, 2), [(row, 0, len(story)) for row, story in enumerate(world.stories)], None, turns=False)
    for row, story in enumerate(world.stories):
        written = story[:, shape.heads : shape.heads + 3], story[:, shape.heads + 3 :]
        for kept, exact in zip(world.kept(row, len(story)), written, strict=True):
            if cache == torch.int8:
                step = exact.double().abs().amax(-1, keepdim=True) / 127
                assert ((kept - exact).abs() <= 0.5001 * step).all()
            else:
                assert torch.equal(kept, exact.to(cache).double())


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dim", "turning"), [(2, 2), (12, 8), (80, 80), (80, 20), (17, 16)])
def test_rotary_turns_pairs(dim: int, turning: int, isa: str, interleaved: bool) -> None:
    shape = Shape(dim=dim, page_size=3)
    pages, qkv = shape.pages(4), normal(dim, 5, shape.heads + 4, dim)
    cos, sin = ops_of(isa).angles(torch.tensor([0, 1, 5, 100, 4000]), torch.logspace(0, -2, turning // 2), 1.1)
    slots = torch.tensor([4, 3, 11, 6, 7])
    queries = ops_of(isa).rotary_write(qkv.clone(), shape.heads, cos, sin, interleaved, pages, slots)
    pairs = torch.arange(turning).view(-1, 2) if interleaved else torch.arange(turning).view(2, -1).T
    wanted = qkv.double().clone()
    for pair, (first, second) in enumerate(pairs.tolist()):
        c, s = cos[:, pair, None].double(), sin[:, pair, None].double()
        a, b = qkv[:, : shape.heads + 2, first].double(), qkv[:, : shape.heads + 2, second].double()
        wanted[:, : shape.heads + 2, first], wanted[:, : shape.heads + 2, second] = a * c - b * s, b * c + a * s
    assert (queries.double() - wanted[:, : shape.heads]).abs().max() < 1e-6
    keys = pages.keys[slots // 3, :, :, slots % 3].double()
    assert (keys - wanted[:, shape.heads : shape.heads + 2]).abs().max() < 1e-6
    assert torch.equal(pages.values[slots // 3, :, slots % 3], qkv[:, shape.heads + 2 :])


# The same bits.

LENGTHS = (150, 1, 64, 65, 37)


def in_chunks(length: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def all_together(size: int) -> list[list[tuple[int, int, int]]]:
    """Steps in which every row that is not done computes its next `size` tokens."""
    chunks = [in_chunks(length, size) for length in LENGTHS]
    return [
        [(row, *mine[step]) for row, mine in enumerate(chunks) if step < len(mine)]
        for step in range(max(map(len, chunks)))
    ]


def one_after_another(size: int) -> list[list[tuple[int, int, int]]]:
    return [[(row, *piece)] for row, length in enumerate(LENGTHS) for piece in in_chunks(length, size)]


def staggered() -> list[list[tuple[int, int, int]]]:
    """Row i computes one token at a time until the others have come; chunks of 7 and 11 beside them."""
    steps = [[(0, position, position + 1)] for position in range(30)]
    steps += [[(0, 30 + i, 31 + i), (2, 7 * i, 7 * i + 7), (4, 11 * i, min(11 * i + 11, 37))] for i in range(4)]
    steps += [[(3, 0, 65), (0, 34, 150), (1, 0, 1)], [(2, 28, 64)]]
    return steps


def computed(world: World, ops: Ops, steps: list[list[tuple[int, int, int]]], window: int | None) -> list[Tensor]:
    """Per row: outputs, keys and values of all tokens, side by side."""
    parts: list[list[Tensor]] = [[] for _ in LENGTHS]
    for pieces in steps:
        for (row, _, _), output in zip(pieces, world.step(ops, pieces, window), strict=True):
            parts[row].append(output)
    kept = [world.kept(row, length) for row, length in enumerate(LENGTHS)]
    return [
        torch.cat([torch.cat(mine).double(), *(each.flatten(1) for each in both)], 1)
        for mine, both in zip(parts, kept, strict=True)
    ]


@pytest.mark.parametrize("window", [None, 7, 70])
@pytest.mark.parametrize("cache", CACHES, ids=CACHE_IDS)
@pytest.mark.parametrize(("dim", "share", "kind"), [(16, 2, "plain"), (20, 7, "plain"), (20, 7, "all")])
def test_a_row_has_the_same_bits_in_any_arrangement(
    dim: int, share: int, kind: str, cache: torch.dtype, window: int | None
) -> None:
    shape = Shape(dim=dim, kv_heads=1, share=share, cache=cache, scores=scores_of(kind, share))
    stories = stories_of(shape, LENGTHS)
    alone = one_after_another(1000)
    expected = computed(World.of(shape, stories), ops_of(ISAS[0]), alone, window)
    arrangements = [(isa, threads, 16, all_together(1000)) for isa in ISAS for threads in (1, 2, 3)]
    arrangements += [(isa, 1, page_size, alone) for isa in ISAS for page_size in (1, 3, 32, 48, 64)]
    arrangements += [(ISAS[0], 1, 16, all_together(size)) for size in (1, 5, 64)]
    arrangements += [(ISAS[-1], 2, 3, all_together(13)), (ISAS[0], 3, 48, staggered()), (ISAS[-1], 1, 5, staggered())]
    for isa, threads, page_size, steps in arrangements:
        world = World.of(replace(shape, page_size=page_size), stories, seed=page_size)
        found = computed(world, ops_of(isa, threads), steps, window)
        for row, (one, other) in enumerate(zip(expected, found, strict=True)):
            assert torch.equal(one, other), (isa, threads, page_size, row)


# What is not a number.


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("cache", CACHES, ids=CACHE_IDS)
def test_what_is_not_a_number_stays_in_its_row(cache: torch.dtype, part: str, poison: float) -> None:
    """Two rows in one batch: the second is spoilt at its position 3, and seen to be from there on."""
    shape = Shape(cache=cache)
    place = {"query": 1, "key": shape.heads, "value": shape.heads + 2}[part]
    for isa, page_size in itertools.product(ISAS, (16, 5)):
        clean = World.of(replace(shape, page_size=page_size), stories_of(shape, [20, 20]))
        spoilt = World.of(replace(shape, page_size=page_size), stories_of(shape, [20, 20]))
        spoilt.stories[1][3, place, 6] = poison
        pieces = [(0, 0, 20), (1, 0, 20)]
        (good, well), (first, second) = (world.step(ops_of(isa, 2), pieces, None) for world in (clean, spoilt))
        assert torch.equal(first, good)
        assert torch.equal(second[:3], well[:3])
        heads = second.view(20, shape.heads, shape.dim)
        if part == "query":
            assert not heads[3, 1].isfinite().any()
            assert torch.equal(second[4:], well[4:])
        else:  # query heads 0 and 1 share the key and value head
            assert not heads[3:, :2].isfinite().flatten(1).all(1).any()
            assert torch.equal(heads[:, 2:], well.view(heads.shape)[:, 2:])


# No rows, and wrong inputs.


@pytest.mark.parametrize("cache", CACHES, ids=CACHE_IDS)
@pytest.mark.parametrize("isa", ISAS)
def test_no_rows_give_no_rows(isa: str, cache: torch.dtype) -> None:
    shape, ops = Shape(cache=cache), ops_of(isa, 2)
    pages, table = shape.pages(2), torch.zeros(0, 3, dtype=torch.int32)
    before = pages.keys.clone()
    empty = torch.empty(0, shape.heads + 4, shape.dim)
    nothing = torch.empty(0, dtype=torch.int64)
    queries = ops.rotary_write(empty, shape.heads, None, None, False, pages, nothing)
    plan = ops.plan_attention(table, torch.zeros(1, dtype=torch.int32), table[:, 0], [], [], pages, frozenset([None]))
    assert ops.attention(queries, pages, plan, 1.0, None).shape == (0, shape.heads * shape.dim)
    assert torch.equal(pages.keys.nan_to_num(5), before.nan_to_num(5))


QKV, SLOTS = torch.zeros(2, 8, 16), torch.zeros(2, dtype=torch.int64)
ANGLES = torch.zeros(2, 8)
TABLE, STARTS, LENS = (torch.zeros(size, dtype=torch.int32) for size in ((2, 3), (3,), (2,)))


def plan_with(ops: Ops, table: Tensor = TABLE, starts: Tensor = STARTS, lens: Tensor = LENS) -> Any:
    return ops.plan_attention(table, starts, lens, [0, 0], [0, 0], Shape().pages(2), frozenset([None]))


WRONG: dict[str, Callable[[Ops], Any]] = {
    "qkv type": lambda ops: ops.rotary_write(QKV.double(), 4, None, None, False, Shape().pages(2), SLOTS),
    "qkv strides": lambda ops: ops.rotary_write(QKV[:, :, ::2], 4, None, None, False, Shape(dim=8).pages(2), SLOTS),
    "slots type": lambda ops: ops.rotary_write(QKV, 4, None, None, False, Shape().pages(2), SLOTS.int()),
    "angles type": lambda ops: ops.rotary_write(QKV, 4, ANGLES.double(), ANGLES, False, Shape().pages(2), SLOTS),
    "angles strides": lambda ops: ops.rotary_write(QKV, 4, ANGLES, ANGLES.T, False, Shape().pages(2), SLOTS),
    "queries type": lambda ops: ops.attention(QKV[:, :4].half(), Shape().pages(2), plan_with(ops), 1.0, None),
    "queries strides": lambda ops: ops.attention(QKV.transpose(1, 2), Shape().pages(2), plan_with(ops), 1.0, None),
    "table type": lambda ops: plan_with(ops, table=TABLE.long()),
    "table strides": lambda ops: plan_with(ops, table=TABLE[:, ::2]),
    "starts type": lambda ops: plan_with(ops, starts=STARTS.long()),
    "lengths type": lambda ops: plan_with(ops, lens=LENS.long()),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_kernels_cannot_take_is_refused(name: str) -> None:
    with pytest.raises(InvariantError):
        WRONG[name](ops_of(ISAS[0]))
