"""What programs of a kernel load ahead of what they compute: the bytes of weights, keys and values that one of them has
asked for and not got yet. By Little's law a GPU's memory gives no more than its multiprocessors have in flight in the
time of one load: at 3.35 TB/s and 700 ns, 17 KiB of each of an H100's 132."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flover.ops.cuda.quantized import Quantized, sections_of

Constants = Mapping[str, Any]
_BYTES = {"*fp32": 4, "*bf16": 2, "*fp16": 2, "*i8": 1, "*u8": 1}
_BLOCKS = 256
"""So many blocks begin with the record of a scale, and end with it."""


def _of_a_block(kind: Quantized) -> float:
    """Bytes of a block of 32 inputs of one output."""
    return sections_of(kind, 1, _BLOCKS).end / _BLOCKS


def _quantized(values: Constants, _: Mapping[str, Any]) -> float:
    kind = values["FORMAT"]
    return float(_of_a_block(kind) * kind.together * values["UNITS"] * values["BLOCK_OUT"] * (1 + values["GATED"]))


def _floats(values: Constants, signature: Mapping[str, Any]) -> float:
    size = _BYTES[signature["x"]]
    return float(size * values["BLOCK_IN"] * values["BLOCK_OUT"] * (1 + values["GATED"]))


def _fp8(values: Constants, _: Mapping[str, Any]) -> float:
    return float((values["STEP"] + 4) * values["BLOCK_OUT"] * (1 + values["GATED"]))


def _attention(values: Constants, signature: Mapping[str, Any]) -> float:
    return float(2 * _BYTES[signature["keys"]] * values["BLOCK_KEYS"] * values["DIM"])


_OF_A_TURN: Mapping[str, Callable[[Constants, Mapping[str, Any]], float]] = {
    "quantized_kernel": _quantized,
    "quantized_grouped_kernel": _quantized,
    "product_kernel": _floats,
    "grouped_kernel": _floats,
    "fp8_kernel": _fp8,
    "fp8_grouped_kernel": _fp8,
    "attention_kernel": _attention,
}


def constants_of(source: Any) -> Constants:
    """The compile-time constants of Triton's source of a kernel, by name."""
    names = source.fn.arg_names
    return {names[path[0]]: value for path, value in source.constants.items() if len(path) == 1}


def bytes_ahead(source: Any, values: Constants, stages: int) -> int:
    """Of a kernel with these constants and so many stages: the turns of its loop that are on the way while it computes
    one. 0 for kernels that have no such loop."""
    of_a_turn = _OF_A_TURN.get(source.fn.__name__)
    return int((stages - 1) * of_a_turn(values, source.signature)) if of_a_turn else 0


MOST_GROUPS = 63
"""Groups of asynchronous loads that a thread can have on the way when it goes on: DEPBAR of the machine code has 6 bits
for them, and where Triton asks for more, the assembler writes 63."""


def on_the_way(ahead: int, stages: int, groups: int) -> int:
    """What of these bytes is on the way at most, in a kernel of so many stages that has so many groups of asynchronous
    loads in its loop and the turns before it."""
    of_a_turn, turns = groups // stages, stages - 1
    if not ahead or (turns - 1) * of_a_turn <= MOST_GROUPS:
        return ahead
    return int(ahead * (MOST_GROUPS + of_a_turn) / (turns * of_a_turn))
