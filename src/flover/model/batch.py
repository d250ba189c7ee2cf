"""The tensors of one ragged forward, made once per iteration and passed down in the signature."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """T tokens of R rows, the tokens of a row one after another, rows in order.

    A generating row has one token, a pre-processing row a chunk. Row r owns tokens
    query_starts[r] .. query_starts[r+1]; its last token is at position context_lens[r] - 1.
    """

    token_ids: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64
    slots: torch.Tensor  # [T] int64: page * page_size + offset, where the token's key and value are written
    query_starts: torch.Tensor  # [R + 1] int32
    context_lens: torch.Tensor  # [R] int32: tokens of the row that are in its pages after the write
    page_table: torch.Tensor  # [R, P] int32: P is the most pages any of these rows uses
    query_lens_host: tuple[int, ...]  # the same lengths, already on the host
    context_lens_host: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.token_ids.shape[0])

    @property
    def num_rows(self) -> int:
        return len(self.query_lens_host)


def one_token_batch() -> Batch:
    """One row with one token 0 at position 0 of page 0, which belongs to nobody."""
    ids, lens = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 1], dtype=torch.int32)
    return Batch(
        token_ids=ids[0:1],
        positions=ids[1:2],
        slots=ids[2:3],
        query_starts=lens[0:2],
        context_lens=lens[2:3],
        page_table=torch.zeros(1, 1, dtype=torch.int32),
        query_lens_host=(1,),
        context_lens_host=(1,),
    )
