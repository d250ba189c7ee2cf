"""The frozen words between the work scheduler and the devices: one `StepPlan` in, one `StepResult` out.

A plan says everything a device has to know about one iteration; whoever runs the same plans in the same order
holds the same state. An executor applies a plan in this order:

1. `evictions`: these rows are dead, clear their columns;
2. `moves`: copy the columns of row `src` to row `dst` (buffer reordering; keys and values stay in their pages);
3. `admissions`: fill the columns of a new row;
4. `grants`: append page numbers to a row's page table;
5. one ragged forward over all `chunks` and `generating` rows, keys and values written to the rows' pages;
6. one sampling for the rows that want a token: every generating row, and every chunk with `samples`.
"""

from __future__ import annotations

import msgspec

from flover.request import SamplingParams, TokenLogprobs

NULL_PAGE = 0
"""Page that no sequence ever owns: rows without a request read and write it."""


class Move(msgspec.Struct, frozen=True, array_like=True):
    """Row `src` becomes row `dst`; `dst` is a hole."""

    src: int
    dst: int


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence takes a row. `output_ids` is not empty when it comes back after preemption.

    The first `computed` tokens are already in the pages (prefix reuse). Page i of `pages` holds the keys and
    values of tokens i*page_size to (i+1)*page_size - 1.
    """

    row: int
    sequence: int
    prompt_ids: list[int]
    output_ids: list[int]
    params: SamplingParams
    seed: int
    bad_words_ids: list[list[int]]
    computed: int
    pages: list[int]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """More pages for a row, appended to its page table."""

    row: int
    pages: list[int]


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Pre-processing of a part of a row's known tokens: `token_ids` at positions start, start + 1, …

    `samples` is set on the chunk that reaches the last known token: the row then gets its next token.
    """

    row: int
    start: int
    token_ids: list[int]
    samples: bool


class StepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One iteration. `window` is the half-open range of rows that the forward covers.

    With buffer reordering the window is 0..n and all its rows are alive. Without it (`--no-reorder`) dead rows
    may lie inside; a device computes them like live ones, on the null page, and throws the result away.
    """

    step: int
    evictions: list[int]
    moves: list[Move]
    admissions: list[Admission]
    grants: list[Grant]
    chunks: list[Chunk]
    generating: list[int]
    window: tuple[int, int]
    dead: list[int] = []

    @property
    def chunk_tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(len(chunk.token_ids) for chunk in self.chunks)

    @property
    def num_tokens(self) -> int:
        """Tokens that the forward computes, dead rows included."""
        return len(self.generating) + len(self.dead) + self.chunk_tokens

    @property
    def busy_rows(self) -> set[int]:
        """Live rows that the forward computes: those with a chunk, and those that generate."""
        return {chunk.row for chunk in self.chunks} | set(self.generating)


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one row got: a token if it sampled, or `error` if its numbers were not usable (then no token).

    `prompt_logprobs` has one entry per token of the chunk (the entry for position 0 is None), and is there
    only if the request asked for it.
    """

    row: int
    token_id: int | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    error: str | None = None


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of step `step`, one entry per row that sampled, failed, or has prompt log-probabilities."""

    step: int
    rows: list[RowResult]
    kernel_seconds: float = 0.0
    """Of the time that the iteration took, the part spent in kernels, as far as the executor knows."""
