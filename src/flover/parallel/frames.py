"""What rank 0 sends to the others: their rank and settings, then one frozen frame per iteration, numbered. Followers
decide nothing."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from flover.config import EngineConfig
from flover.engine.plan import StepPlan

EXIT_FAILED = 1
EXIT_HOPELESS = 2
"""Exit codes of a follower: another one in its place may do better, or would not."""


class Join(msgspec.Struct, frozen=True):
    """To a new process, on its socket: you are this rank; on one machine the others are found through the file."""

    config: EngineConfig
    rank: int
    rendezvous: str


class RunPlan(msgspec.Struct, frozen=True, tag="run"):
    """Carry out this plan. `tokens` are the newest of the rows that got some in the plan before, numbered as they were
    then; `digest` is of what rank 0 computed that plan on, and every rank must have the same."""

    number: int
    plan: StepPlan
    tokens: list[tuple[int, int]]
    digest: int


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """Forget all rows."""

    number: int


class Trim(msgspec.Struct, frozen=True, tag="trim"):
    """The memory behind these pages may go."""

    number: int
    pages: list[int]


class End(msgspec.Struct, frozen=True, tag="end"):
    """Leave."""

    number: int


Frame: TypeAlias = RunPlan | Reset | Trim | End

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Frame).decode
