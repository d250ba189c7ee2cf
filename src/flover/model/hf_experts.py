"""What a config.json says of a mixture of experts."""

from __future__ import annotations

from collections.abc import Sequence

from flover.files import shown
from flover.model.config import ExpertsConfig
from flover.model.families import Family, Flag
from flover.model.fields import Fields
from flover.ops import Routing

MAX_EXPERTS = 4096
MAX_WIDTH = 2**24
SOME_LAYERS = ("decoder_sparse_step", "mlp_only_layers")


def read_experts(fields: Fields, family: Family, num_layers: int) -> Sequence[ExpertsConfig | None]:
    """The experts of every layer. Raises `ModelError`."""
    names = family.experts
    if names is None:
        return [None] * num_layers
    count = fields.integer(names.count, most=MAX_EXPERTS)
    if count < 2:
        raise fields.error(names.count, f"must be at least 2, got {count}")
    top_k = fields.integer(names.top_k)
    if top_k > count:
        raise fields.error(names.top_k, f"must be at most {names.count} ({count}), got {top_k}")
    shared = names.shared_intermediate_size
    normalized = names.normalized
    experts = ExpertsConfig(
        count=count,
        routing=Routing(
            top_k=top_k,
            normalized=fields.flag(normalized.name, normalized.default) if isinstance(normalized, Flag) else normalized,
        ),
        intermediate_size=fields.integer(names.intermediate_size, most=MAX_WIDTH),
        shared_intermediate_size=0 if shared is None else _shared_width(fields, shared),
        shared_gate=names.shared_gate and fields.data.get(shared or "") != 0,
    )
    return [experts if layer else None for layer in _with_experts(fields, family, num_layers)]


def _shared_width(fields: Fields, name: str) -> int:
    return 0 if fields.data.get(name) == 0 else fields.integer(name, most=MAX_WIDTH)


def _with_experts(fields: Fields, family: Family, num_layers: int) -> Sequence[bool]:
    """Which layers have experts."""
    assert family.experts is not None
    if not family.experts.some_layers:
        return [True] * num_layers
    step = fields.integer("decoder_sparse_step", 1)
    without = fields.data.get("mlp_only_layers") or []
    if not isinstance(without, list) or not all(
        isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in without
    ):
        raise fields.error("mlp_only_layers", f"must be a list of layers, got {shown(without)}")
    found = [layer not in without and (layer + 1) % step == 0 for layer in range(num_layers)]
    if not any(found):
        raise fields.error("mlp_only_layers", "and decoder_sparse_step leave no layer with experts")
    return found
