"""The frozen types between the scheduler and the devices: one `StepPlan` in, one `StepResult` out.

A plan says everything that a device has to know about one iteration; devices that run the same plans in the same order
hold the same state. An executor applies a plan in this order:

1. `evictions`: these rows are dead, clear their columns;
2. `moves`: copy the columns of row `src` to row `dst` (buffer reordering; keys and values stay in their pages);
3. `copies`: store pages in the host tier or load them from it, one after another;
4. `admissions`: fill the columns of a new row;
5. `grants`: append page numbers to a row's page table;
6. one ragged forward over the tokens of all `work`, keys and values written to the rows' pages;
7. sampling, after the last `num_samples` tokens of each row's work;
8. `drafts`: what a draft model computes and proposes then.
"""

from __future__ import annotations

import msgspec

from flover.prefix.tier import PageCopy
from flover.request import SamplingParams, TokenLogprobs
from flover.speculation import Draft

NULL_PAGE = 0
"""Page that no sequence ever owns: rows without a request read and write it."""


class Move(msgspec.Struct, frozen=True, array_like=True):
    """Row `src` becomes row `dst`; `dst` is a hole."""

    src: int
    dst: int


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence takes a row. `output_ids` is not empty when it comes back after preemption.

    The first `computed` tokens are in the pages already (prefix reuse; `copies` may have brought them). Page i of
    `pages` holds the keys and values of tokens i*page_size to (i+1)*page_size - 1.
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


class Work(msgspec.Struct, frozen=True, array_like=True):
    """What one row computes: its tokens at positions `start`, `start` + 1, …, the last `num_samples` of them sampled.

    A *chunk* of known tokens names them all; it samples once if it reaches the last known token, else not at all. A
    *generating* row begins with its newest token, which the device has and the plan does not repeat; `token_ids` are
    proposals for the tokens after it (none without speculation), and each of the len(token_ids) + 1 tokens is sampled.
    Sample i of a generating row is drawn with the random number `num_outputs` + i, and is void unless the proposals
    before it were the samples before it.
    """

    row: int
    start: int
    token_ids: list[int]
    num_samples: int

    @property
    def generates(self) -> bool:
        """Whether it begins with the row's newest token."""
        return self.num_samples > len(self.token_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens that the forward computes for the row."""
        named = len(self.token_ids)
        return named if named >= self.num_samples else self.num_samples


class StepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One iteration. `work` is in the order of rows; `window` is the half-open range of rows that the forward covers.

    With buffer reordering the window is 0..n and all its rows are alive. Without it (`--no-reorder`) dead rows
    may lie inside; a device computes them like live ones, on the null page, and throws the result away.
    """

    step: int
    evictions: list[int]
    moves: list[Move]
    admissions: list[Admission]
    grants: list[Grant]
    work: list[Work]
    window: tuple[int, int]
    dead: list[int] = []
    drafts: list[Draft] = []
    copies: list[PageCopy] = []

    @property
    def chunks(self) -> list[Work]:
        """The work of rows that are pre-processing."""
        return [work for work in self.work if not work.generates]

    @property
    def generating(self) -> list[int]:
        """The rows that generate."""
        return [work.row for work in self.work if work.generates]

    @property
    def chunk_tokens(self) -> int:
        """Tokens of all chunks."""
        return sum(work.num_tokens for work in self.work if not work.generates)

    @property
    def num_tokens(self) -> int:
        """Tokens that the forward computes, dead rows included."""
        return len(self.dead) + sum(work.num_tokens for work in self.work)


class RowResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one row got: up to `num_samples` tokens if it sampled, or `error` if its numbers were not usable.

    `logprobs` has one entry per token and `prompt_logprobs` one per token of the chunk (the entry for position 0 is
    None); both are there only if the request asked for them.
    """

    row: int
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    embedding: bytes | None = None
    error: str | None = None
    proposals: list[int] = []  # of a draft model, for the tokens after these


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """Results of step `step`, one entry per row that sampled, failed, or has prompt log-probabilities."""

    step: int
    rows: list[RowResult]
    kernel_seconds: float = 0.0
    """Of the time that the iteration took, the part spent in kernels, as far as the executor knows."""
    compilations: int = 0  # of kernels, meanwhile: there should be none
    offload_error: str | None = None  # a page could not be stored, so the host tier is given up
