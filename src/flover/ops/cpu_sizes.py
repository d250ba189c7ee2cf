"""What weights take in memory as the C++ kernels keep them: a table that needs no kernels."""

from __future__ import annotations

from flover.ops import BLOCKS, WeightFormat

_FACTOR_BYTES = {"q4_k": 64, "q5_k": 64, "q3_k": 64, "iq4_xs": 32}
"""What 16 outputs take more than in the file for each block: factors of 6 bits are kept in a byte."""
BYTES_PER_WEIGHT: dict[WeightFormat, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1,
    "int4": 0.625,
    **{name: (block.num_bytes + _FACTOR_BYTES.get(name, 0) / 16) / block.inputs for name, block in BLOCKS.items()},
}
"""Of a large matrix; int4 and the block formats count their scales and offsets."""
