"""The types of tensors in GGUF files: ggml's number of each, its name, and how many numbers lie in how many bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredType:
    """A type of tensors. Plain numbers have safetensors' names, blocks ggml's in lower case."""

    name: str
    numbers: int
    num_bytes: int


TYPES: dict[int, StoredType] = {
    0: StoredType("F32", 1, 4),
    1: StoredType("F16", 1, 2),
    2: StoredType("q4_0", 32, 18),
    3: StoredType("q4_1", 32, 20),
    6: StoredType("q5_0", 32, 22),
    7: StoredType("q5_1", 32, 24),
    8: StoredType("q8_0", 32, 34),
    9: StoredType("q8_1", 32, 40),
    10: StoredType("q2_k", 256, 84),
    11: StoredType("q3_k", 256, 110),
    12: StoredType("q4_k", 256, 144),
    13: StoredType("q5_k", 256, 176),
    14: StoredType("q6_k", 256, 210),
    15: StoredType("q8_k", 256, 292),
    16: StoredType("iq2_xxs", 256, 66),
    17: StoredType("iq2_xs", 256, 74),
    18: StoredType("iq3_xxs", 256, 98),
    19: StoredType("iq1_s", 256, 50),
    20: StoredType("iq4_nl", 32, 18),
    21: StoredType("iq3_s", 256, 110),
    22: StoredType("iq2_s", 256, 82),
    23: StoredType("iq4_xs", 256, 136),
    24: StoredType("I8", 1, 1),
    25: StoredType("I16", 1, 2),
    26: StoredType("I32", 1, 4),
    27: StoredType("I64", 1, 8),
    28: StoredType("F64", 1, 8),
    29: StoredType("iq1_m", 256, 56),
    30: StoredType("BF16", 1, 2),
    34: StoredType("tq1_0", 256, 54),
    35: StoredType("tq2_0", 256, 66),
    39: StoredType("mxfp4", 32, 17),
    40: StoredType("nvfp4", 64, 36),
    41: StoredType("q1_0", 128, 18),
}
