"""The arrays of one ragged forward, made once per iteration and passed down in the signature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flover.ops import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """T tokens of R rows, the tokens of a row one after another, rows in order.

    A generating row has one token, a pre-processing row a chunk. Row r owns tokens
    query_starts[r] .. query_starts[r+1]; its last token is at position context_lens[r] - 1.
    """

    token_ids: Array  # [T] int64
    positions: Array  # [T] int64
    slots: Array  # [T] int64: page * page_size + offset, where the token's key and value are written
    query_starts: Array  # [R + 1] int32
    context_lens: Array  # [R] int32: tokens of the row that are in its pages after the write
    page_table: Array  # [R, P] int32: P is the most pages any of these rows uses
    query_lens_host: tuple[int, ...]  # the same lengths, already on the host
    context_lens_host: tuple[int, ...]
    adapters: Array | None = None  # [T] int32: slots of their rows' adapters, -1 without; None: no row has any

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_rows(self) -> int:
        return len(self.query_lens_host)


def one_token_batch() -> Batch:
    """One row with one token 0 at position 0 of page 0, which no sequence holds."""
    ids, lens = np.zeros(3, dtype=np.int64), np.array([0, 1, 1], dtype=np.int32)
    return Batch(
        token_ids=ids[0:1],
        positions=ids[1:2],
        slots=ids[2:3],
        query_starts=lens[0:2],
        context_lens=lens[2:3],
        page_table=np.zeros((1, 1), dtype=np.int32),
        query_lens_host=(1,),
        context_lens_host=(1,),
        adapters=np.full(1, -1, dtype=np.int32),
    )
