"""The benchmark of linears: a model's shapes in every format, on weights larger than the caches; and packing speed.

The kernel alone is timed, as a recorded forward runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flover import _cpu
from flover.bench.timing import Named, best_mean, best_means, keeping
from flover.errors import ConfigError
from flover.model.config import ModelConfig, parameter_shapes
from flover.model.load import SLICE_NUMBERS
from flover.ops import BLOCKS, Part, WeightFormat
from flover.ops.cpu import CpuOps
from flover.ops.cpu_layout import ACTIVATIONS
from flover.ops.cpu_sizes import BYTES_PER_WEIGHT
from flover.ops.cpu_weight import PackedWeight
from flover_benchmarks.kernels.blocks import random_blocks
from flover_benchmarks.kernels.figures import Measurement
from flover_benchmarks.kernels.torch_threads import torch_threads

COLD_BYTES = 2**27
"""Bytes of the weights of one pass: several times the last-level cache."""

COLD_ROWS = 8
"""Up to so many rows a pass reads all of `COLD_BYTES`; with more rows a pass has fewer weights."""

HEAD_ROWS = 64
"""Only sampled rows get logits, never a whole prompt."""

TORCH_DTYPES: dict[WeightFormat, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LAYER = "layers.0."


SHARED = ("out", "down", "shared.down")
"""Their inputs can be shared among ranks: the sums over them are a tree."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One linear of a model, which has `count` of them."""

    name: str
    out_size: int
    in_size: int
    gated: bool
    kind: str | None  # activation
    count: int

    @property
    def numbers(self) -> int:
        return self.out_size * self.in_size

    @property
    def label(self) -> str:
        return f"{self.name} {self.out_size}×{self.in_size}"


def linear_shapes(config: ModelConfig) -> list[Shape]:
    """The linears of the first layer but for its experts', then the head."""
    shapes = []
    for parameter, shape in parameter_shapes(config).items():
        if parameter.startswith(_LAYER) and len(shape) == 2 and ".experts." not in parameter:
            name = parameter.removeprefix(_LAYER).removesuffix(".weight")
            up = name in ("up", "shared.up")
            activation = config.activation if up else None
            shapes.append(Shape(name, shape[0], shape[1], up and config.gated, activation, config.num_layers))
    return [*shapes, Shape("head", config.vocab_size, config.hidden_size, False, None, 1)]


def num_layers(shapes: Sequence[Shape], bytes_per_weight: float, rows: int, cold_bytes: int = COLD_BYTES) -> int:
    """Number of layers of a pass; the head is in it once."""
    layer = sum(shape.numbers for shape in shapes if shape.name != "head") * bytes_per_weight
    head = sum(shape.numbers for shape in shapes if shape.name == "head") * bytes_per_weight
    all_of_them = max(1, int(-(-(cold_bytes - head) // layer)))
    return all_of_them if rows <= COLD_ROWS else max(1, all_of_them * COLD_ROWS // rows)


class LinearBench:
    """Weights of every shape in one format, and torch's if it has the format. Raises `ConfigError` for shapes that the
    format cannot hold."""

    def __init__(self, shapes: Sequence[Shape], weight_format: WeightFormat, *, cold_bytes: int = COLD_BYTES) -> None:
        block = BLOCKS.get(weight_format)
        wrong = [shape.label for shape in shapes if block and shape.in_size % block.inputs]
        if block and wrong:
            raise ConfigError(
                f"--formats {weight_format}: blocks of {block.inputs} inputs do not fit {', '.join(wrong)}"
            )
        self.shapes = shapes
        self.format = weight_format
        self._cold_bytes = cold_bytes
        layers = num_layers(shapes, BYTES_PER_WEIGHT[weight_format], 1, cold_bytes)
        dtype = TORCH_DTYPES.get(weight_format)
        self._packed: dict[str, list[PackedWeight]] = {}
        self._plain: dict[str, list[Tensor]] = {}
        for shape in shapes:
            values = torch.randn(shape.out_size, shape.in_size)
            copies = 1 if shape.name == "head" else layers
            self._packed[shape.name] = [_packed(shape, weight_format, values, copy) for copy in range(copies)]
            if dtype is not None:
                self._plain[shape.name] = [values.to(dtype, copy=True) for _ in range(copies)]

    def measure(self, ops: CpuOps, rows: int, seconds: float) -> list[Measurement]:
        """One measurement per shape, about `seconds` each; the head up to `HEAD_ROWS`."""
        shapes = [shape for shape in self.shapes if shape.name != "head" or rows <= HEAD_ROWS]
        budget = seconds * len(shapes)
        ours = best_means(list(self._our_calls(ops, shapes, rows)), budget)
        theirs: dict[str, float] = {}
        if self._plain:
            with torch_threads(ops.runner.threads), torch.inference_mode():
                theirs = best_means(list(self._torch_calls(shapes, rows)), budget)
        return [
            Measurement(
                op="linear",
                name=shape.label,
                kind=self.format,
                threads=ops.runner.threads,
                rows=rows,
                seconds=ours[shape.name],
                reads=rows == 1,
                flop=2.0 * rows * shape.numbers,
                bytes=self._packed[shape.name][0].num_bytes,
                torch_seconds=theirs.get(shape.name),
                times_per_step=shape.count,
            )
            for shape in shapes
        ]

    def _pass(self, shapes: Sequence[Shape], rows: int) -> Iterator[tuple[Shape, int]]:
        """The shapes layer by layer, as in a step."""
        for layer in range(num_layers(self.shapes, BYTES_PER_WEIGHT[self.format], rows, self._cold_bytes)):
            for shape in shapes:
                if shape.name != "head" or layer == 0:
                    yield shape, layer

    def _our_calls(self, ops: CpuOps, shapes: Sequence[Shape], rows: int) -> Iterator[Named]:
        inputs = {size: torch.randn(rows, size) for size in {shape.in_size for shape in shapes}}
        y = torch.zeros(rows * max(shape.out_size for shape in shapes))
        for shape, layer in self._pass(shapes, rows):
            x = inputs[shape.in_size]
            op = _cpu.Linear(
                weight=self._packed[shape.name][layer].data,
                x=x.data_ptr(),
                rows=rows,
                absmax=0,
                bias=0,
                added=0,
                adds=0,
                added_stride=0,
                activation=ACTIVATIONS[shape.kind],
                y=y.data_ptr(),
                stride=shape.out_size // 2 if shape.gated else shape.out_size,
                column=0,
            )
            yield shape.name, keeping((x, y), partial(ops.runner.run, op))

    def _torch_calls(self, shapes: Sequence[Shape], rows: int) -> Iterator[Named]:
        dtype = TORCH_DTYPES[self.format]
        inputs = {size: torch.randn(rows, size).to(dtype) for size in {shape.in_size for shape in shapes}}
        for shape, layer in self._pass(shapes, rows):

            def call(weight: Tensor = self._plain[shape.name][layer], x: Tensor = inputs[shape.in_size]) -> Tensor:
                return F.linear(x, weight)

            yield shape.name, call


def _packed(shape: Shape, weight_format: WeightFormat, values: Tensor, copy: int) -> PackedWeight:
    """Packed weights; copies after the first have one value per output, which is fast to quantize, and blocks are
    random bits. Kernel time does not depend on values."""
    shared = Part(0, shape.in_size) if shape.name in SHARED else None
    weight = PackedWeight((shape.out_size, shape.in_size), weight_format, shape.gated, shared)
    if weight_format in BLOCKS:
        weight.store_blocks(0, random_blocks(weight_format, *weight.shape, np.random.default_rng(copy)))
        return weight
    weight.store(0, (values if copy == 0 else values[:, :1].expand_as(values)).numpy())
    return weight


def measure_packing(shape: Shape, weight_format: WeightFormat, seconds: float) -> Measurement:
    """Quantize and pack slice by slice, as the loader does; bytes are those of the input, float32 or blocks."""
    count = min(shape.out_size, max(1, SLICE_NUMBERS // shape.in_size))
    weight, generator = PackedWeight((count, shape.in_size), weight_format, False), np.random.default_rng(0)
    if weight_format in BLOCKS:
        blocks = random_blocks(weight_format, *weight.shape, generator)
        num_bytes, store = blocks.nbytes, partial(weight.store_blocks, 0, blocks)
    else:
        values = generator.standard_normal(weight.shape, dtype=np.float32)
        num_bytes, store = values.nbytes, partial(weight.store, 0, values)
    return Measurement(
        op="pack",
        name=f"{count}×{shape.in_size}",
        kind=weight_format,
        threads=1,
        rows=count,
        seconds=best_mean(store, seconds),
        reads=True,
        bytes=num_bytes,
    )
