"""What a draft model computes in an iteration: part of the plan, as all that a device does is."""

from __future__ import annotations

import msgspec


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """For row `row`, once the iteration has sampled: the draft model computes `token_ids` at positions `start`,
    `start` + 1, … and proposes `count` tokens after those that the row has then.

    With a `count` the tokens that the iteration samples for the row come behind `token_ids`, and these are all between
    what the draft model had computed and them. Without one this is a part of a long prompt. The row's pages have room.
    """

    row: int
    start: int
    token_ids: list[int]
    count: int
