"""Machine instructions that the interpreter does not have: what their text computes is what kernels mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from flover.ops.cuda.blocks import _LOOK_UP, _VALUES, FP4, IQ4

pytestmark = pytest.mark.gpu
WORD = 0xFFFFFFFF


def permuted(low: int, high: int, choice: int) -> int:
    """PTX's prmt.b32: a byte of eight for each of four numbers of 4 bits; from 8 on its sign, in all bits."""
    chosen = [choice >> 4 * i & 15 for i in range(4)]
    found = [((high << 32 | low) >> 8 * (one & 7) & 255, one >= 8) for one in chosen]
    return sum((255 * (byte >> 7) if sign else byte) << 8 * i for i, (byte, sign) in enumerate(found))


def looked_up(a: int, b: int, c: int, table: int) -> int:
    """PTX's lop3.b32: a bit of the table for the three bits of each place."""
    return sum((table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1) & 1) << i for i in range(32))


INSTRUCTIONS = {
    "and.b32": lambda a, b: a & b,
    "or.b32": lambda a, b: a | b,
    "shl.b32": lambda a, b: a << b & WORD,
    "shr.u32": lambda a, b: a >> b,
    "prmt.b32": permuted,
    "lop3.b32": looked_up,
}


def computed(text: str, **arguments: int) -> int:
    """What $0 is after these instructions."""
    values = {f"${name[1:]}": value & WORD for name, value in arguments.items()}

    def value_of(operand: str, known: Mapping[str, int]) -> int:
        return known[operand] if operand in known else int(operand, 0)

    for name, operands in re.findall(r"(\w+\.\w+) ([^;]+);", re.sub(r"//.*|\.reg.*", "", text)):
        into, *sources = operands.split(", ")
        values[into] = INSTRUCTIONS[name](*(value_of(one, values) for one in sources))
    return values["$0"]


@pytest.mark.parametrize(("name", "words"), [("iq4", IQ4.value), ("fp4", FP4.value)])
def test_numbers_are_looked_up_four_at_once(name: str, words: tuple[int, ...]) -> None:
    for first in range(16):
        numbers = [(first + 5 * i) % 16 for i in range(4)]
        q = sum(number << 8 * i for i, number in enumerate(numbers))
        found = computed(_LOOK_UP.value, _1=q, **{f"_{i + 2}": word for i, word in enumerate(words)})
        assert [found >> 8 * i & 255 for i in range(4)] == [_VALUES[name][number] & 255 for number in numbers]
