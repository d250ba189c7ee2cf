"""Blocks of all formats with random bits and small scales, as a file would hold them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from flover.ops import BLOCKS, WeightFormat
from flover.weight_formats import GGUF_BLOCKS

HALVES: Mapping[WeightFormat, tuple[int, ...]] = {
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q6_k": (208,),
    **dict.fromkeys(("q4_1", "q5_1", "q4_k", "q5_k"), (0, 2)),
}
"""Where a block has float16 numbers: the scale, the offset. Elsewhere it begins with its scale."""
_EXPONENT = 120
"""Of MXFP4: a scale of 2^-8."""


def random_blocks(
    weight_format: WeightFormat, outputs: int, inputs: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Rows of a weight [outputs, inputs], uint8 [outputs, bytes of a row]."""
    block = BLOCKS[weight_format]
    count = inputs // block.inputs
    blocks = generator.integers(0, 256, (outputs, count, block.num_bytes), dtype=np.uint8)
    if weight_format not in GGUF_BLOCKS:
        blocks[..., :4] = _words(weight_format, (0.01 * generator.standard_normal((outputs, count))).astype(np.float32))
        if weight_format == "fp8_e4m3":
            blocks[..., 4:][blocks[..., 4:] & 0x7F == 0x7F] = 0
    elif weight_format == "mxfp4":
        blocks[..., 0] = _EXPONENT + generator.integers(-4, 5, (outputs, count))
    else:
        for place in HALVES.get(weight_format, (0,)):
            scales = 0.01 * generator.standard_normal((outputs, count, 1))
            blocks[..., place : place + 2] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(outputs, -1)


def _words(weight_format: WeightFormat, scales: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Scales of 32 bits; of 4 bits with 0 to 15 for zero in the lowest byte."""
    words = scales.view(np.uint32)
    if weight_format.startswith("int4"):
        words = (words & np.uint32(0xFFFFFF00)) | (words & np.uint32(15))
    return words[..., None].view(np.uint8)
