"""A minimal engine for tests of the decoder: rows of tokens, pages handed out at random, one forward per step."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.thread_ranks import on_ranks

from flover.config import EngineConfig
from flover.memory.kvcache import KVCache
from flover.model.batch import Batch
from flover.model.load import LoadedModel, load_model
from flover.ops import DType, Group
from flover.ops.cpu import cpu_ops


def load(path: Path, **settings: object) -> LoadedModel:
    """Load a checkpoint, without progress."""
    config = EngineConfig(model=str(path), **settings)  # type: ignore[arg-type]
    return load_model(config, OPS, lambda done, total: None)


OPS = cpu_ops("auto", 1)
NAN: dict[DType, float] = {"float32": np.nan, "bfloat16": 0x7FC0}


class Driver:
    """Rows by number; `step` runs pieces of several of them in one ragged forward.

    Pages are dealt in random order, and the pages nobody has are filled with NaN: whoever reads a slot that is not
    the row's own is found out.
    """

    def __init__(self, loaded: LoadedModel, *, num_pages: int = 96, page_size: int = 4, seed: int = 0) -> None:
        self.loaded = loaded
        dtype: DType = "bfloat16" if loaded.description.settings.dtype == "bfloat16" else "float32"
        self.kv = KVCache(loaded.own, num_pages, page_size, dtype, OPS.page_shapes)
        for pages in self.kv.layers:
            pages.keys.fill(NAN[dtype])
            pages.values.fill(NAN[dtype])
        self.free = list(range(1, num_pages))
        random.Random(seed).shuffle(self.free)
        self.tables: dict[int, list[int]] = {}
        self.lens: dict[int, int] = {}

    def step(self, pieces: dict[int, list[int]]) -> dict[int, torch.Tensor]:
        """Append the tokens to their rows; returns the logits [tokens, vocab] of each row's piece."""
        positions, slots, starts = [], [], [0]
        size = self.kv.page_size
        for row, ids in pieces.items():
            table = self.tables.setdefault(row, [])
            start = self.lens.get(row, 0)
            self.lens[row] = start + len(ids)
            while len(table) * size < self.lens[row]:
                table.append(self.free.pop())
            positions += range(start, self.lens[row])
            slots += [table[position // size] * size + position % size for position in range(start, self.lens[row])]
            starts.append(len(positions))
        width = max(len(self.tables[row]) for row in pieces)
        context_lens = tuple(self.lens[row] for row in pieces)
        batch = Batch(
            token_ids=np.array([token for ids in pieces.values() for token in ids]),
            positions=np.array(positions),
            slots=np.array(slots),
            query_starts=np.array(starts, dtype=np.int32),
            context_lens=np.array(context_lens, dtype=np.int32),
            page_table=np.array(
                [self.tables[row] + [0] * (width - len(self.tables[row])) for row in pieces], dtype=np.int32
            ),
            query_lens_host=tuple(len(ids) for ids in pieces.values()),
            context_lens_host=context_lens,
        )
        decoder = self.loaded.decoder
        logits = decoder.logits(decoder.forward(batch, self.kv))
        if logits is None:  # of a rank that does not sample
            return {}
        return {row: torch.from_numpy(logits[starts[i] : starts[i + 1]]) for i, row in enumerate(pieces)}

    def greedy(self, row: int, prompt_ids: list[int], num_tokens: int) -> list[int]:
        """The most likely continuation of a fresh row."""
        logits = self.step({row: prompt_ids})[row]
        output = [int(logits[-1].argmax())]
        while len(output) < num_tokens:
            logits = self.step({row: output[-1:]})[row]
            output.append(int(logits[-1].argmax()))
        return output


def whole_logits(loaded: LoadedModel, token_ids: list[int]) -> torch.Tensor:
    """Logits [T, vocab] of a sequence computed in one piece, alone."""
    return Driver(loaded).step({0: token_ids})[0]


def logits_of_ranks(path: Path, token_ids: list[int], size: int = 2, **settings: Any) -> torch.Tensor:
    """The same as `whole_logits` by tensor parallel, with threads as ranks; `settings` are those of the engine."""
    config = EngineConfig(model=str(path), tensor_parallel_size=size, **settings)

    def run(group: Group) -> dict[int, torch.Tensor]:
        return Driver(load_model(config, cpu_ops("auto", 1, group), lambda done, total: None)).step({0: token_ids})

    return on_ranks(size, run)[0][0]
