"""How rows choose their tokens, as arrays that a device takes: who edits its logits and who draws."""

from __future__ import annotations

from dataclasses import dataclass, fields

from flover.ops import Array, SampleColumns


@dataclass(frozen=True, slots=True)
class Edits:
    """What E rows change. Lists of ids lie one after another, those of row e from starts[e] to
    starts[e + 1]; a row's ids in `bias_ids` differ, and so do those in `seen_ids`."""

    rows: Array  # int64 [E]: places in the logits
    masks: Array  # int32 [M, ceil(V / 32)]: bit i of word w allows token 32 w + i
    mask_of: Array  # int32 [E]: a row of `masks`; -1: all tokens are allowed
    banned_starts: Array  # int32 [E + 1]
    banned_ids: Array  # int64
    bias_starts: Array  # int32 [E + 1]
    bias_ids: Array  # int64
    biases: Array  # float32
    seen_starts: Array  # int32 [E + 1]: tokens that penalties concern
    seen_ids: Array  # int64
    outputs: Array  # float32: how often each is in the output
    repetition: Array  # float32 [E]
    frequency: Array  # float32 [E]
    presence: Array  # float32 [E]


@dataclass(frozen=True, slots=True)
class Draws(SampleColumns):
    """Rows that draw."""

    rows: Array  # int64 [D]: places in the logits
    seed: Array  # int64 [D]
    num_outputs: Array  # int64 [D]


DRAW_COLUMNS = tuple(item.name for item in fields(Draws) if item.name != "rows")
"""Those that are columns of rows."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the rows of one step ask for beyond the largest logit; None: none of them does."""

    edits: Edits | None
    draws: Draws | None  # of rows that edit nothing
    edited_draws: Draws | None  # of those that do; their places in `edits`
