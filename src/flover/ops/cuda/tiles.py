"""How products with quantized weights are cut into programs, on any GPU.

Few rows are read by memory's latency: what a multiprocessor has asked for and not got yet decides how fast weights come
(Little's law), so their programs load several turns of the loop ahead. Up to four rows have their numbers in words
(few_rows.py), more are multiplied by tensor cores. Many rows fill registers with sums.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from flover.ops.cuda.launch import WORD_ROWS, power_of_two
from flover.ops.cuda.quantize import FLOATS, Recipe
from flover.ops.cuda.quantized import Quantized, QuantizedWeight, sections_of
from flover.ops.cuda.routing import EXPERT_ROWS

TOGETHER = 128
"""Outputs of a program that rotates what it computed: the largest rotation."""
FEW_ROWS = 16
_OUT, _WORD_UNITS = 32, 2
MOST_REGISTERS = 255
"""Of a thread, said so: else the assembler saves some for more programs at once, and keeps what is left in memory."""
_AHEAD_BYTES, _AHEAD, _AHEAD_HEAVY, _AHEAD_GATED = 20, 12, 8, 4
"""Units of inputs that a program for few rows has asked for and not got yet: of numbers of 8 bits, of 4, of those with
more loads to a unit; gated, of twice as many outputs, in a launch of more programs."""
_WORDS_AHEAD, _WORDS_AHEAD_GATED = 24 * 1024, 8 * 1024
"""The same in bytes, where rows are so few that numbers are in words."""
_BLOCKS = 256
"""So many blocks have whole records."""
_GROUPS = 63
"""A thread goes on with at most so many groups of asynchronous loads on the way, and Triton makes a group of each
load."""


class Tile(NamedTuple):
    """So many rows and outputs for a program of so many warps, which takes so many units of the inputs in one turn of
    its loop, and has those of so many turns in shared memory or on the way."""

    rows: int
    outputs: int
    units: int
    warps: int
    stages: int = 3


def rows_of_an_expert(tokens: int) -> int:
    """Rows of a tile of integers of one expert, for so many tokens: those of one token are all different, and of few an
    expert has few."""
    return 1 if tokens == 1 else WORD_ROWS.value if tokens <= FEW_ROWS else EXPERT_ROWS


def tile_of(
    weight: QuantizedWeight, rows: int, taken: Recipe = FLOATS, then: Recipe = FLOATS, segments: int = 1
) -> Tile:
    """For a product of so many rows, which it takes and keeps like that: those that are rotated together, by one
    program. fp8 has one tile: tensor cores of floats add in an order of their own. A turn of the loop stays within one
    of the segments of the inputs."""
    kind, count = weight.kind, weight.blocks // weight.kind.together // segments
    if kind.code == "fp8":
        return Tile(16, _OUT, math.gcd(count, 4), 2, 3 if weight.gated else 7)
    if rows <= WORD_ROWS.value:
        return _tile_of_words(weight, power_of_two(rows), count, taken, then)
    heavy = kind.parts == 2 or kind.factors == "both" or kind.scale == "word" or kind.planes > 1
    heavy = heavy or kind.code != "same"  # numbers that are looked up
    ahead = _AHEAD_BYTES if kind.low == 8 else _AHEAD_HEAVY if heavy else _AHEAD
    if rows <= FEW_ROWS or then.way == "rotated":
        units = math.gcd(count, 4 >> (heavy + weight.gated))
        if then.way == "rotated":
            return Tile(16, TOGETHER, units, 8)
        return Tile(16, _OUT, units, 2, 1 + (_AHEAD_GATED if weight.gated else ahead) // units)
    if (weight.gated and heavy) or (kind.parts == 2 and kind.offset):  # half the rows: 64 by 32 do not fit in registers
        return Tile(32, 64, 1, 4)
    # Sums of 64 by 64 and these numbers do not fit in registers.
    narrow = weight.gated or kind.parts == 2 or kind.code != "same"
    narrow = narrow or (kind.offset and (kind.planes > 0 or kind.factors == "both"))
    return Tile(64, 32 if narrow else 64, 1, 8 if taken.way == "rotated" else 4)


def _tile_of_words(weight: QuantizedWeight, rows: int, count: int, taken: Recipe, then: Recipe) -> Tile:
    """For so few rows that numbers are in words, and so many units of the inputs."""
    kind, outputs = weight.kind, TOGETHER if then.way == "rotated" else _OUT
    units = math.gcd(count, _WORD_UNITS >> weight.gated)
    turn = sections_of(kind, outputs << weight.gated, _BLOCKS).end * units * kind.together // _BLOCKS
    ahead = _WORDS_AHEAD_GATED if weight.gated and outputs == _OUT else _WORDS_AHEAD
    most = _GROUPS // (units * _loads_of_words(kind, taken, weight.gated))
    return Tile(rows, outputs, units, outputs // 16, 1 + min(math.ceil(ahead / turn), most))


def _loads_of_words(kind: Quantized, taken: Recipe, gated: bool) -> int:
    """Asynchronous loads for a unit, which are of four bytes or more: of its weights, and of its activations."""
    scales = max(1, kind.together // kind.record) if kind.scale in ("single", "word") else 0
    weights = (kind.low > 0) + kind.planes + scales + (kind.factors != "none")
    return weights * (1 + gated) + 1 + (taken.way == "blocks") + (taken.parts > 0 and taken.way != "rotated")
