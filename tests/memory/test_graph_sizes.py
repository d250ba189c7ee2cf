"""For which rows and contexts forwards are captured."""

from __future__ import annotations

import pytest

from flover.memory.graph_sizes import (
    GRAPH_BYTES,
    at_least,
    capture_contexts,
    capture_widths,
    graph_bytes,
    warm_up_batches,
)


def test_widths_are_those_of_vllm_up_to_the_most_rows() -> None:
    assert capture_widths(1) == [1]
    assert capture_widths(5) == [1, 2, 4, 5]
    assert capture_widths(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert capture_widths(300)[-5:] == [248, 256, 272, 288, 300]


@pytest.mark.parametrize(
    ("max_len", "contexts"), [(512, [512]), (1024, [1024]), (5000, [1024, 5000]), (2**17, [1024, 8192])]
)
def test_contexts(max_len: int, contexts: list[int]) -> None:
    assert capture_contexts(max_len) == contexts


def test_a_step_takes_the_next_of_the_ladder() -> None:
    ladder = capture_widths(20)
    assert [at_least(size, ladder) for size in (1, 3, 8, 9, 17, 20, 21)] == [1, 4, 8, 16, 20, 20, None]


def test_a_warm_up_fits_the_longest_context() -> None:
    assert max(sum(lens) for lens, _ in warm_up_batches(40)) <= 40
    assert {lens for lens, _ in warm_up_batches(1)} == {(1,)}


def test_memory_of_graphs() -> None:
    """Llama 3 8B in 16 bits with 64 rows and contexts of 8192 tokens: 11 widths, two contexts, 32 parts of 32 heads."""
    assert graph_bytes(64, 8192, 32, 128, 1000) == 22 * GRAPH_BYTES + 64 * (1000 + 32 * 32 * 130 * 4)
    assert graph_bytes(1, 256, 32, 128, 1000) == GRAPH_BYTES + 1000
