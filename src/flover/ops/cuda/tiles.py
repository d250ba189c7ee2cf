"""How products with quantized weights are cut into programs, on any GPU.

Few rows are read by memory's latency: what a multiprocessor has asked for and not got yet decides how fast weights come
(Little's law), so their programs load several turns of the loop ahead. Many rows fill registers with sums.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flover.ops.cuda.quantize import FLOATS, Recipe
from flover.ops.cuda.quantized import QuantizedWeight

TOGETHER = 128
"""Outputs of a program that rotates what it computed: the largest rotation."""
FEW_ROWS = 16
MOST_REGISTERS = 255
"""Of a thread, said so: else the assembler saves some for more programs at once, and keeps what is left in memory."""
_AHEAD_BYTES, _AHEAD, _AHEAD_HEAVY, _AHEAD_GATED = 20, 12, 8, 4
"""Units of inputs that a program for few rows has asked for and not got yet: of numbers of 8 bits, of 4, of those with
more loads to a unit; gated, of twice as many outputs, in a launch of more programs. A thread goes on with at most 63
groups of asynchronous loads on the way, and Triton makes a group of each load."""


class Tile(NamedTuple):
    """So many rows and outputs for a program of so many warps, which takes so many units of the inputs in one turn of
    its loop, and has those of so many turns in shared memory or on the way."""

    rows: int
    outputs: int
    units: int
    warps: int
    stages: int = 3


def tile_of(
    weight: QuantizedWeight, rows: int, taken: Recipe = FLOATS, then: Recipe = FLOATS, segments: int = 1
) -> Tile:
    """For a product of so many rows, which it takes and keeps like that: those that are rotated together, by one
    program. fp8 has one tile: tensor cores of floats add in an order of their own. A turn of the loop stays within one
    of the segments of the inputs."""
    kind, count = weight.kind, weight.blocks // weight.kind.together // segments
    if kind.code == "fp8":
        return Tile(16, 32, math.gcd(count, 4), 2)
    heavy = kind.parts == 2 or kind.factors == "both" or kind.scale == "word" or kind.planes > 1
    heavy = heavy or kind.code != "same"  # numbers that are looked up
    ahead = _AHEAD_BYTES if kind.low == 8 else _AHEAD_HEAVY if heavy else _AHEAD
    if rows <= FEW_ROWS or then.way == "rotated":
        units = math.gcd(count, 4 >> (heavy + weight.gated))
        if then.way == "rotated":
            return Tile(16, TOGETHER, units, 8)
        return Tile(16, 32, units, 2, 1 + (_AHEAD_GATED if weight.gated else ahead) // units)
    if weight.gated and heavy:  # half the rows: sums and numbers of 64 by 32 do not fit in registers
        return Tile(32, 64, 1, 4)
    # Sums of 64 by 64 and these numbers do not fit in registers.
    narrow = weight.gated or kind.parts == 2 or (kind.planes > 0 and kind.offset) or kind.code != "same"
    return Tile(64, 32 if narrow else 64, 1, 8 if taken.way == "rotated" else 4)
