"""A draft model beside the model of an executor: it proposes tokens, which that one verifies.

Its pages have the numbers of the model's own, so a row's page table leads to both. What it computes lies where the
model's own tokens lie; in a page that rows share, all of them write the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flover.engine.plan import RowResult
from flover.executor.device_batch import dummy_batch, slots_of
from flover.memory.buffers import RowBuffers
from flover.memory.kvcache import PageCache
from flover.model.batch import Batch
from flover.ops import Array, HostArray
from flover.speculation import Draft

_WARM_UP_TOKENS = 16


class Forwards(Protocol):
    """What it asks of a decoder (`model/decoder.py`)."""

    def forward(self, batch: Batch, kv: PageCache) -> Array: ...

    def logits(self, hidden: Array) -> Array | None: ...


@dataclass(frozen=True, slots=True)
class _Run:
    """One row's draft: `token_ids` are computed from position `start` on."""

    row: int
    start: int
    token_ids: list[int]
    count: int

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


class DraftModel:
    """Proposes the likeliest tokens, one after the other, for all rows at once. `vocab_size` is the number of tokens
    that the model which verifies knows: others are not proposed."""

    def __init__(self, decoder: Forwards, kv: PageCache, page_size: int, vocab_size: int) -> None:
        self._decoder = decoder
        self._kv = kv
        self._page_size = page_size
        self._vocab_size = vocab_size

    def warm_up(self) -> None:
        """On the null page, so that the first draft pays for no first use."""
        for query_len in (_WARM_UP_TOKENS, 1):
            self._likeliest(self._decoder.forward(dummy_batch(1, query_len, self._page_size), self._kv)[-1:])

    def propose(self, drafts: list[Draft], results: Mapping[int, RowResult], rows: RowBuffers) -> dict[int, list[int]]:
        """Carry drafts out after the tokens that the iteration gave (`results`, by row); proposals by row. A row that
        failed, or whose pages have no room for its newest token, gets none, and nothing is computed for it."""
        runs = [run for draft in drafts if (run := self._run(draft, results, rows)) is not None]
        if not runs:
            return {}
        last = np.cumsum([len(run.token_ids) for run in runs]) - 1
        proposing = [place for place, run in enumerate(runs) if run.count]
        hidden = self._decoder.forward(self._batch(runs, rows), self._kv)
        proposals: dict[int, list[int]] = {runs[place].row: [] for place in proposing}
        states = hidden[last[proposing]] if len(proposing) < len(hidden) else hidden
        while proposing:
            chosen = self._likeliest(states)
            again: list[int] = []
            for place, token in zip(proposing, chosen, strict=True):
                run = runs[place]
                proposals[run.row].append(token)
                runs[place] = _Run(run.row, run.end, [token], run.count - 1)
                if run.count > 1:
                    again.append(place)
            proposing = again
            if proposing:
                states = self._decoder.forward(self._batch([runs[place] for place in proposing], rows), self._kv)
        return proposals

    def trim(self, free_pages: list[int]) -> None:
        """Give the memory behind these pages back."""
        self._kv.trim(free_pages)

    def close(self) -> None:
        """Free weights and pages."""
        self._kv.close()

    def _run(self, draft: Draft, results: Mapping[int, RowResult], rows: RowBuffers) -> _Run | None:
        result = results.get(draft.row)
        sampled = result.token_ids if result is not None and draft.count else []
        if draft.count and not sampled:
            return None
        run = _Run(draft.row, draft.start, [*draft.token_ids, *sampled], draft.count)
        # The last proposal is not computed.
        room = int(rows["num_pages"][draft.row]) * self._page_size - run.end + 1
        if room < 1:
            return None
        return _Run(run.row, run.start, run.token_ids, min(run.count, room))

    def _batch(self, runs: list[_Run], rows: RowBuffers) -> Batch:
        numbers = np.array([run.row for run in runs])
        lens = np.array([len(run.token_ids) for run in runs])
        starts = np.concatenate([[0], np.cumsum(lens)])
        positions = np.arange(starts[-1]) + np.repeat(np.array([run.start for run in runs]) - starts[:-1], lens)
        context_lens = np.array([run.end for run in runs])
        page_table = rows["page_table"][numbers, : -(-int(context_lens.max()) // self._page_size)]
        own = np.repeat(np.arange(len(runs)), lens)
        return Batch(
            token_ids=np.concatenate([np.array(run.token_ids, dtype=np.int64) for run in runs]),
            positions=positions,
            slots=slots_of(page_table, own, positions, self._page_size),
            query_starts=starts.astype(np.int32),
            context_lens=context_lens.astype(np.int32),
            page_table=page_table,
            query_lens_host=tuple(lens.tolist()),
            context_lens_host=tuple(context_lens.tolist()),
        )

    def _likeliest(self, states: Array) -> list[int]:
        """Of the logits after each of the states [R, H]."""
        logits: HostArray = np.asarray(self._decoder.logits(states))
        chosen: list[int] = np.argmax(logits[:, : self._vocab_size], axis=1).tolist()
        return chosen
