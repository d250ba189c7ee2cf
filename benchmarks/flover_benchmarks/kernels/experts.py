"""The benchmark of experts: a layer's mixture in every format, with the experts in use read from memory."""

from __future__ import annotations

import numpy as np

from flover import _cpu
from flover.bench.timing import Call, Named, best_means, keeping
from flover.errors import ConfigError
from flover.model.config import ModelConfig
from flover.ops import BLOCKS, Array, Experts, HostArray, WeightFormat
from flover.ops.cpu import CpuOps
from flover.ops.cpu_experts import ExpertOps
from flover.ops.cpu_weight import PackedWeight
from flover_benchmarks.kernels.blocks import random_blocks
from flover_benchmarks.kernels.figures import Measurement
from flover_benchmarks.kernels.linears import COLD_BYTES

READING_ROWS = 2
"""Rows for each expert in use up to which memory limits it."""


class ExpertBench:
    """The experts of one layer in one format. Raises `ConfigError` for widths that the format cannot hold."""

    def __init__(self, config: ModelConfig, weight_format: WeightFormat, *, cold_bytes: int = COLD_BYTES) -> None:
        experts, block = config.experts, BLOCKS.get(weight_format)
        assert experts is not None
        self.experts = experts
        self.config = config
        self.format = weight_format
        self._cold_bytes = cold_bytes
        hidden, inner = config.hidden_size, experts.intermediate_size
        if block and (hidden % block.inputs or inner % block.inputs):
            raise ConfigError(
                f"--formats {weight_format}: blocks of {block.inputs} inputs do not fit experts {hidden}×{inner}"
            )
        count = range(experts.count)
        self._up = [_packed((2 * inner, hidden), weight_format, True, expert) for expert in count]
        self._down = [_packed((hidden, inner), weight_format, False, expert) for expert in count]

    def measure(self, ops: CpuOps, rows: int, seconds: float) -> Measurement:
        """One measurement: random tokens, so that the experts in use are as many as are expected; a pass makes calls
        until it has read more than the caches hold."""
        generator, experts = np.random.default_rng(0), self.experts
        each = self._up[0].num_bytes + self._down[0].num_bytes
        used: list[int] = []
        calls: list[Named] = []
        while not calls or sum(used) * each < self._cold_bytes:
            scores = generator.standard_normal((rows, experts.count), dtype=np.float32)
            used.append(len(np.unique(np.argpartition(-scores, experts.routing.top_k - 1)[:, : experts.routing.top_k])))
            calls.append(("", self._call(ops, scores)))
        in_use = sum(used) / len(used)
        pairs = rows * experts.routing.top_k
        return Measurement(
            op="experts",
            name=f"{experts.routing.top_k} of {experts.count}, {self.config.hidden_size}×{experts.intermediate_size}",
            kind=self.format,
            threads=ops.runner.threads,
            rows=rows,
            seconds=best_means(calls, seconds)[""],
            reads=pairs <= READING_ROWS * in_use,
            flop=2.0 * pairs * 3 * self.config.hidden_size * experts.intermediate_size,
            bytes=in_use * each,
            times_per_step=sum(layer.experts is not None for layer in self.config.layers),
        )

    def _call(self, ops: CpuOps, scores: HostArray) -> Call:
        """The kernels of one layer, as a recorded forward runs them."""
        kept: list[Array] = []
        kernels: list[_cpu.Op] = []

        def new(*shape: int) -> Array:
            kept.append(np.empty(shape, dtype=np.float32))
            return kept[-1]

        alone = lambda x, parts, rotation: x, lambda reduction, x: None  # no other rank
        recorder = ExpertOps(kernels.append, new, lambda array: array, *alone)
        x = np.random.default_rng(1).standard_normal((len(scores), self.config.hidden_size), dtype=np.float32)
        recorder.run(x, scores, Experts(self._up, self._down), self.experts.routing, self.config.activation)
        return keeping((x, scores, kept), lambda: _run_all(ops, kernels))


def _run_all(ops: CpuOps, kernels: list[_cpu.Op]) -> None:
    for kernel in kernels:
        ops.runner.run(kernel)


def _packed(shape: tuple[int, int], weight_format: WeightFormat, gated: bool, seed: int) -> PackedWeight:
    """Kernel time does not depend on values: rows of one number, which are fast to quantize, or random blocks."""
    weight, generator = PackedWeight(shape, weight_format, gated), np.random.default_rng(seed)
    if weight_format in BLOCKS:
        weight.store_blocks(0, random_blocks(weight_format, *shape, generator))
    else:
        column = generator.standard_normal((shape[0], 1), dtype=np.float32) / shape[1]
        weight.store(0, np.broadcast_to(column, shape))
    return weight
