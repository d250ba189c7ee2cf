"""The formats that weights are kept in. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

WeightFormat = Literal[
    "float32", "bfloat16", "float16", "int8", "int4",
    "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4",
    "int4_g32", "int4_g64", "int4_g128", "int8_g32", "int8_g64", "fp8_e4m3",
]  # fmt: skip
"""How the numbers of a matrix are kept. int8 has a scale for each output, int4 a scale and an offset for every 32
inputs of an output; both are quantized when rows are stored. The others are kept as a file has them: GGUF's, then those
of quantized safetensors (source/quantized_blocks.py), which have a scale for every so many inputs."""


@dataclass(frozen=True, slots=True)
class Block:
    """What a format of a file keeps together in a row: so many inputs in so many bytes."""

    inputs: int
    num_bytes: int

    def row_bytes(self, inputs: int) -> int:
        """Of a row in the file."""
        return inputs // self.inputs * self.num_bytes


GGUF_BLOCKS: Mapping[WeightFormat, Block] = {
    "q8_0": Block(32, 34),
    "q4_0": Block(32, 18),
    "q4_1": Block(32, 20),
    "q5_0": Block(32, 22),
    "q5_1": Block(32, 24),
    "q2_k": Block(256, 84),
    "q3_k": Block(256, 110),
    "q4_k": Block(256, 144),
    "q5_k": Block(256, 176),
    "q6_k": Block(256, 210),
    "iq4_nl": Block(32, 18),
    "iq4_xs": Block(256, 136),
    "mxfp4": Block(32, 17),
}
BLOCKS: Mapping[WeightFormat, Block] = {
    **GGUF_BLOCKS,
    "int4_g32": Block(32, 20),
    "int4_g64": Block(64, 36),
    "int4_g128": Block(128, 68),
    "int8_g32": Block(32, 36),
    "int8_g64": Block(64, 68),
    "fp8_e4m3": Block(64, 68),
}
"""Formats that keep exactly the numbers of a file."""
ONE_SCALE: frozenset[WeightFormat] = frozenset({"int8", "int4"})
"""Formats whose products quantize the activations of a token with one scale."""
INPUTS_TOGETHER: Mapping[WeightFormat, int] = {
    "int8": 8,
    "int4": 32,
    **{name: block.inputs for name, block in BLOCKS.items()},
}
"""The quantized formats, and how many inputs in a row are quantized together."""
LARGEST_ROTATION = 128
MOST_SEGMENTS = 8
"""Of a sum over inputs that ranks share; up to so many ranks compute the bits of one."""


def rotation_of(weight_format: WeightFormat, inputs: int) -> int:
    """How many neighbouring inputs are rotated together before they are quantized, of so many in a row: the largest
    power of two that divides them, up to 128. 1: nothing is rotated."""
    return math.gcd(inputs, LARGEST_ROTATION) if weight_format in ONE_SCALE else 1


def inputs_together(weight_format: WeightFormat, inputs: int) -> int:
    """How many neighbouring inputs depend on each other or lie together, of so many in a row: ranks are cut between
    these."""
    return max(
        2 if weight_format in ("bfloat16", "float16") else INPUTS_TOGETHER.get(weight_format, 1),
        rotation_of(weight_format, inputs),
    )


def segments_of(weight_format: WeightFormat, whole: int, inputs: int, together: int = 1) -> int:
    """How many segments a rank sums by itself, whose weight has `inputs` of the `whole` inputs of a matrix.

    All inputs are cut into the largest number of segments of one length, a power of two up to 8, that leaves together
    what belongs together (to a device `together` inputs, too). A rank whose part is not a power of two of these has one
    of its own.
    """
    together = max(together, inputs_together(weight_format, whole))
    of_all = 1 if whole % together else math.gcd(whole // together, MOST_SEGMENTS)
    own, rest = divmod(of_all * inputs, whole)
    return own if rest == 0 and own.bit_count() == 1 else 1
