"""Mixtures of experts on the C++ kernels (csrc/experts.h)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from flover import _cpu
from flover.errors import InvariantError
from flover.ops import ONE_SCALE, Array, Experts, Reduction, Routing
from flover.ops.cpu_layout import ACTIVATIONS, address, floats
from flover.ops.cpu_weight import PackedWeight


class ExpertOps:
    """The operations of the table that layers with experts add. `run` computes an operation, `new` makes an array of
    float32, `constant` keeps one for as long as the operations that read it, `absmax_of_all` gives the largest
    magnitudes of the parts of rows, rotated, over all ranks, and `all_reduce` reduces an array over them."""

    def __init__(
        self,
        run: Callable[[_cpu.Op], None],
        new: Callable[..., Array],
        constant: Callable[[Array], Array],
        absmax_of_all: Callable[[Array, int, int], Array],
        all_reduce: Callable[[Reduction, Array], None],
    ) -> None:
        self._run = run
        self._new = new
        self._constant = constant
        self._absmax_of_all = absmax_of_all
        self._all_reduce = all_reduce

    def run(
        self,
        x: Array,
        scores: Array,
        experts: Experts,
        routing: Routing,
        kind: str,
    ) -> Array:
        """Choose, multiply by the matrices of the chosen experts, and add up what they give."""
        (rows, count), chosen = scores.shape, routing.top_k
        up, down = (cast(Sequence[PackedWeight], one) for one in (experts.up, experts.down))
        if not 1 <= chosen <= count == len(up) == len(down):
            raise InvariantError(f"{chosen} of {count} experts, with {len(up)} and {len(down)} matrices")
        ids, weights = self._new(rows, chosen).view(np.int32), self._new(rows, chosen)
        self._run(
            _cpu.Route(
                scores=floats(scores),
                rows=rows,
                experts=count,
                chosen=chosen,
                normalized=routing.normalized,
                ids=address(ids),
                weights=floats(weights),
            )
        )
        up_bias, down_bias = self._biases(experts.up_bias), self._biases(experts.down_bias)
        inner = self._linear(x, up, up_bias, ids, kind, input_each=False)
        y = self._linear(inner, down, None, ids, None, input_each=True)
        if down[0].shared:  # before the weights: sums of products are not products of sums to the last bit
            self._all_reduce("sum", y)
        size = y.shape[1] // chosen
        total = self._new(rows, size)
        self._run(
            _cpu.ExpertSum(
                x=floats(y),
                weights=floats(weights),
                rows=rows,
                chosen=chosen,
                size=size,
                ids=address(ids),
                bias=floats(down_bias),
                y=floats(total),
            )
        )
        return total

    def _biases(self, each: Sequence[Array]) -> Array | None:
        """Those of all experts in one array."""
        return self._constant(np.stack(each)) if each else None

    def _linear(
        self,
        x: Array,
        weights: Sequence[PackedWeight],
        bias: Array | None,
        ids: Array,
        kind: str | None,
        *,
        input_each: bool,
    ) -> Array:
        """Every token times the matrices of its experts, [T, experts of a token * outputs]."""
        (out_size, in_size), first = weights[0].shape, weights[0]
        chosen = ids.shape[1]
        alike = {(weight.shape, weight.format, weight.gated, weight.part) for weight in weights}
        if len(alike) > 1 or x.shape[1] != in_size * (chosen if input_each else 1):
            raise InvariantError(f"experts of shapes and formats {alike} do not take inputs of {x.shape[1]}")
        absmax = self._absmax_of_all(x, chosen, first.rotation) if first.shared and first.format in ONE_SCALE else None
        y = self._new(x.shape[0], chosen * (out_size // 2 if first.gated else out_size))
        self._run(
            _cpu.ExpertLinear(
                weights=_cpu.Experts([weight.data for weight in weights]),
                x=floats(x),
                rows=x.shape[0],
                chosen=chosen,
                input_each=input_each,
                ids=address(ids),
                bias=floats(bias),
                absmax=floats(absmax),
                activation=ACTIVATIONS[kind],
                y=floats(y),
            )
        )
        return y

    def add_gated(self, x: Array, y: Array, gate: Array) -> Array:
        """x + sigmoid(gate) * y."""
        rows, size = x.shape
        total = self._new(rows, size)
        self._run(_cpu.AddGated(a=floats(x), b=floats(y), gate=floats(gate), rows=rows, size=size, y=floats(total)))
        return total

    def scale_queries(self, queries: Array, gate: Array) -> Array:
        """(1 + sigmoid(gate)) * queries, with whatever else is in the rows that they begin."""
        tokens, heads, dim = queries.shape
        width = max(queries.strides[0] // 4, heads * dim)  # numpy has no strides where there are no tokens
        rows = np.lib.stride_tricks.as_strided(queries, (tokens, width), (4 * width, 4))
        return self.add_gated(rows, rows, gate).reshape(tokens, width // dim, dim)[:, :heads]
