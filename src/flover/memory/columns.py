"""The per-row columns, each declared once. Storage is in `memory/buffers.py`.

Insert, move and clear loop over these declarations, so a new column follows its row everywhere. Columns are in host
memory: their values come from plans or from the one copy back of an iteration, and a device is sent only what an
iteration needs.

State as wide as the vocabulary (penalties, masks, biases) is in columns of dtype object: None for rows that do not
use it, else memory for the row's own tokens only.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NO_LOGPROBS = -2
"""Value of the column `logprobs` of a row without log-probabilities; 0 asks for those of the chosen token alone."""


@dataclass(frozen=True, slots=True)
class Column:
    """One value (or one vector of `shape`) per row. `fill` is the value of a row without a sequence, and `least` the
    smallest of one with a sequence, where a parameter may be smaller."""

    name: str
    dtype: npt.DTypeLike
    shape: tuple[int, ...] = ()
    fill: Any = 0
    least: float = -math.inf


class Feature(enum.IntFlag):
    """Sampling features beyond greedy choice; the column `features` holds a row's set."""

    RANDOM = 1
    ALLOWED = 2
    BAD_WORDS = 4
    MIN_TOKENS = 8
    BIAS = 16
    PENALTIES = 32
    MIN_P = 64
    TOP_K = 128
    TOP_P = 256
    LOGPROBS = 512
    GRAMMAR = 1024


POSITION_COLUMNS = (
    Column("last_id", np.int64),  # newest token: the input of a generating row
    Column("context_len", np.int64),  # tokens of the row whose keys and values are in its pages
    Column("rotary_start", np.int64),  # added to positions in rotary lookups: selects one of two tables of angles
    Column("num_pages", np.int64),  # entries of page_table in use
    Column("adapter", np.int32, fill=-1),  # slot of the row's LoRA adapter; -1: it has none
    Column("pooled", object, fill=None),  # Pooled | None: for embeddings, across chunks
    Column("prompt_hidden", object, fill=None),  # PromptTail | None: for prompt_logprobs across chunks
)

PARAMETER_COLUMNS = (
    Column("temperature", np.float32, fill=1.0, least=float(np.finfo(np.float32).tiny)),
    Column("top_k", np.int64, least=0),  # 0: all
    Column("top_p", np.float64, fill=1.0),
    Column("min_p", np.float64),
    Column("repetition_penalty", np.float32, fill=1.0),
    Column("presence_penalty", np.float32),
    Column("frequency_penalty", np.float32),
    Column("min_tokens", np.int64),
)
"""Columns that hold the parameter of their name."""
SAMPLING_COLUMNS = (
    Column("features", np.int64),  # Feature set
    *PARAMETER_COLUMNS,
    Column("seed", np.int64),
    Column("num_outputs", np.int64),  # tokens chosen so far, those before a preemption included
    Column("logprobs", np.int64, fill=NO_LOGPROBS),
    Column("counts", object, fill=None),  # TokenCounts | None: penalties
    Column("bad_words", object, fill=None),  # BadWords | None
    Column("banned_ids", object, fill=None),  # int64 array | None: ids that min_tokens bans
    Column("bias", object, fill=None),  # (int64 ids, float32 values) | None
    Column("allowed_ids", object, fill=None),  # int64 array | None
    Column("grammar", object, fill=None),  # GrammarState | ThinkingState | None
)


def row_columns(max_pages: int) -> tuple[Column, ...]:
    """All columns of a row that may use up to `max_pages` pages. The fill of `page_table` is the null page."""
    return (Column("page_table", np.int32, (max_pages,)), *POSITION_COLUMNS, *SAMPLING_COLUMNS)
