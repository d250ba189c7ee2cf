"""The least time of a generate step: each part takes as long as its bytes or its operations, whichever is longer (the
roofline model: Williams, Waterman, Patterson, 2009). Weights, keys and values are bfloat16."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flover.model.config import ModelConfig, parameter_shapes
from flover_benchmarks.gpu.machines import Gpu

BYTES = 2
"""Of a number."""


@dataclass(frozen=True, slots=True)
class StepFloor:
    """A step that generates one token in each of `rows` sequences of `context` tokens: bytes and operations of the
    linears and of attention, and the least seconds of both."""

    rows: int
    context: int
    weight_bytes: float
    kv_bytes: float
    linear_ops: float
    attention_ops: float
    linear_seconds: float
    attention_seconds: float

    @property
    def seconds(self) -> float:
        """Of the whole step."""
        return self.linear_seconds + self.attention_seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all sequences together."""
        return self.rows / self.seconds


def step_floor(config: ModelConfig, gpu: Gpu, rows: int, context: int) -> StepFloor:
    """The floor of a step of this model on this GPU."""
    read = read_parameters(config)
    weight_bytes, linear_ops = BYTES * read, 2.0 * rows * read
    keys = sum(min(context, layer.window or context) for layer in config.layers)
    kv_bytes = float(BYTES * rows * keys * 2 * config.kv_size)
    attention_ops = 4.0 * rows * keys * config.query_size
    return StepFloor(
        rows,
        context,
        weight_bytes,
        kv_bytes,
        linear_ops,
        attention_ops,
        max(weight_bytes / gpu.bandwidth, linear_ops / gpu.peak),
        max(kv_bytes / gpu.bandwidth, attention_ops / gpu.peak),
    )


def read_parameters(config: ModelConfig) -> float:
    """Numbers of the weights that a step reads: all experts, all else but a table of embeddings of its own, of which
    it reads a row for each token."""
    shapes = parameter_shapes(config)
    skipped = {"positions.weight"} if config.tied_embeddings else {"embed.weight", "positions.weight"}
    return float(sum(math.prod(shape) for name, shape in shapes.items() if name not in skipped))


def model_bytes(config: ModelConfig) -> float:
    """Of all weights."""
    return float(BYTES * sum(math.prod(shape) for shape in parameter_shapes(config).values()))
