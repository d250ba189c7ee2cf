"""The budget of a model's reasoning: how many tokens it may come to before its end marker is forced."""

from __future__ import annotations

import msgspec


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True):
    """At most `tokens` between the start marker and the end marker. Each is what the model's tokenizer makes of it; the
    end marker must be one token, which is how the end is seen. `space_ids` may stand before the start marker, and after
    it at the end of a prompt. Reasoning may begin at the beginning of an answer, or with `again` anywhere."""

    tokens: int
    start_ids: list[int]
    end_id: int
    space_ids: list[int] = []
    again: bool = False
