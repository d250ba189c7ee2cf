"""What the process that tries constraints out may use, and its two messages."""

from __future__ import annotations

import msgspec

from flover.structured_outputs import Vocabulary

CPU_SECONDS = 2.0
"""Processor time for one constraint and its first mask. SIGVTALRM ends the process after it."""
MEMORY_BYTES = 2**30
"""Address space."""
STACK_BYTES = 32 * 2**20
"""Half of what an engine has."""
NICENESS = 5


class Setup(msgspec.Struct, frozen=True):
    """First frame: what constraints are compiled for."""

    vocabulary: Vocabulary
    vocab_size: int
    eos_ids: list[int]


class Verdict(msgspec.Struct, frozen=True):
    """The answer to one constraint: why it cannot be compiled, None if it can."""

    error: str | None
