"""The op table of one GPU."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from flover.errors import InvariantError
from flover.ops import Alone, Group, HostArray, Ops
from flover.ops.cuda.attention import attention, plan_attention
from flover.ops.cuda.elementwise import add, add_gated, angles, scale_queries, softcap
from flover.ops.cuda.embed import embed
from flover.ops.cuda.experts import ExpertOps
from flover.ops.cuda.graphs import capture_on
from flover.ops.cuda.linear import linear, share_of_rank
from flover.ops.cuda.matrices import JoinedMatrix, Matrix, join, prepare, weights_on
from flover.ops.cuda.norm import head_norm, layer_norm, rms_norm
from flover.ops.cuda.order import argmax, logsumexp
from flover.ops.cuda.quantize import Rows, activations_of_all, floats_of
from flover.ops.cuda.quantized import QuantizedWeight
from flover.ops.cuda.rotary import rotary_write
from flover.ops.cuda.sampling import sample
from flover.ops.cuda.tree import rounded
from flover.ops.joined import JoinedWeight


def page_shapes(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens of a head one after another, keys as values."""
    shape = (num_pages, num_kv_heads, page_size, head_dim)
    return shape, shape


def _array(device: torch.device, values: HostArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _all_reduce(group: Group, x: Tensor) -> Tensor:
    if group.size > 1:
        group.all_reduce("sum", x)
    return x


def _linear(
    group: Group,
    batch_invariant: bool,
    x: Rows,
    weight: Matrix | JoinedMatrix,
    bias: Tensor | None,
    kind: str | None,
    then: QuantizedWeight | None = None,
) -> Rows:
    """Over all ranks where these share the columns of the weight. `batch_invariant`: in one order, whether 1, 2, 4 or 8
    ranks share them."""
    if isinstance(weight, JoinedWeight) or weight.part is None:
        return linear(x, weight, bias, kind, batch_invariant, then)
    if kind is not None or weight.gated:
        raise InvariantError("what ranks give is added up before anything is done with it")
    if isinstance(weight, QuantizedWeight) and x.shape[0]:
        x = activations_of_all(x, weight, group)
    if batch_invariant and x.shape[0]:
        return rounded(_all_reduce(group, share_of_rank(x, weight)), bias, x.dtype)
    return _all_reduce(group, floats_of(linear(x, weight, bias if group.rank == 0 else None, None, batch_invariant)))


def cuda_ops(
    device: torch.device,
    *,
    activations: torch.dtype = torch.float32,
    fp8_activations: bool = False,
    batch_invariant: bool = False,
    group: Group | None = None,
) -> Ops:
    """The table on tensors of `device`, for a rank of `group`. All tensors are contiguous; activations have the type of
    the model's matrices, `activations` if these are quantized; norms and biases any float type. With `fp8_activations`
    products with FP8 weights quantize theirs. With `batch_invariant`
    products with matrices of floats have one order of summation too: a token's result depends on its own context alone.
    """
    group = group or Alone()
    return Ops(
        name="cuda",
        array=partial(_array, device),
        page_shapes=page_shapes,
        new_weight=weights_on(device, activations, fp8_activations),
        embed=embed,  # type: ignore[arg-type]  # weights are this package's own
        rms_norm=rms_norm,
        layer_norm=layer_norm,
        head_norm=head_norm,
        linear=partial(_linear, group, batch_invariant),
        experts=ExpertOps(group, batch_invariant),
        add_gated=add_gated,
        angles=angles,
        rotary_write=rotary_write,
        scale_queries=scale_queries,
        plan_attention=plan_attention,
        attention=attention,
        add=add,
        softcap=softcap,
        argmax=argmax,  # type: ignore[arg-type]  # tensors of the device in and out
        logsumexp=logsumexp,  # type: ignore[arg-type]
        sample=sample,  # type: ignore[arg-type]
        group=group,
        all_reduce=partial(_all_reduce, group),
        capture=capture_on(device),
        captures_one_shape=True,
        join=join,
        prepare=prepare,
    )
