"""What a config.json says of the layers of a model one by one: windows, scales and rotary embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flover.files import shown
from flover.model.config import LayerConfig, RopeConfig
from flover.model.families import Family
from flover.model.fields import Fields
from flover.model.hf_experts import read_experts
from flover.model.rope import read_rope

FULL, SLIDING = "full_attention", "sliding_attention"


def read_layers(
    fields: Fields, family: Family, num_layers: int, head_dim: int, max_len: int
) -> tuple[LayerConfig, ...]:
    """Every layer of a model, by its family's row. Raises `ModelError`."""
    kinds = _layer_types(fields, family, num_layers)
    windows = _windows(fields, family, kinds, num_layers, max_len)
    scales = _scales(fields, family, head_dim, num_layers)
    ropes = _ropes(fields, family, kinds, windows, head_dim, max_len)
    experts = read_experts(fields, family, num_layers)
    return tuple(
        LayerConfig(window=window, attention_scale=scale, rope=rope, experts=mixed)
        for window, scale, rope, mixed in zip(windows, scales, ropes, experts, strict=True)
    )


def _ropes(
    fields: Fields,
    family: Family,
    kinds: Sequence[str] | None,
    windows: Sequence[int | None],
    head_dim: int,
    max_len: int,
) -> Sequence[RopeConfig | None]:
    """The rotary embedding of every layer."""
    num_layers = len(windows)
    if family.local_theta is not None:
        assert kinds is not None
        by_kind = {kind: _rope(fields, family, head_dim, max_len, kind) for kind in dict.fromkeys(kinds)}
        return [by_kind[kind] for kind in kinds]
    rope = _rope(fields, family, head_dim, max_len)
    if family.rotary_layers.startswith("windowed"):
        if not fields.has("sliding_window") and family.rotary_layers == "windowed":
            raise fields.error("sliding_window", "is missing: it says which layers have a rotary embedding")
        everywhere = not fields.has("sliding_window")
        return [rope if window is not None or everywhere else None for window in windows]
    if family.rotary_layers == "all":
        return [rope] * num_layers
    turning = fields.data.get("no_rope_layers")
    if turning is None:
        interval = fields.integer("no_rope_layer_interval", 4)
        turning = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    if not isinstance(turning, list) or len(turning) != num_layers or any(turns not in (0, 1) for turns in turning):
        raise fields.error("no_rope_layers", f"must hold {num_layers} of 0 and 1, got {shown(turning)}")
    return [rope if turns else None for turns in turning]


def _rope(fields: Fields, family: Family, head_dim: int, max_len: int, kind: str | None = None) -> RopeConfig | None:
    """The one of all layers, or of those of a kind."""
    if family.positions in ("learned", "rotary_interleaved"):
        for name in ("rope_scaling", "rope_parameters"):
            if fields.has(name):
                raise fields.error(name, "is there, but this architecture has no such positions")
    if family.positions in ("learned", "alibi"):
        return None
    if family.positions == "rotary_interleaved":
        if "rotary_dim" in fields.data and not fields.has("rotary_dim"):
            raise fields.error("rotary_dim", "must be a number, got null")
        dim = fields.integer("rotary_dim", 64)
        if dim % 2 or dim > head_dim:
            raise fields.error("rotary_dim", f"must be even and at most the head size {head_dim}, got {dim}")
        return RopeConfig(dim=dim, interleaved=True)
    if family.rotary_stated and not fields.has("rope_parameters") and not fields.has("rope_scaling"):
        raise fields.error("rope_parameters", "is missing: it says how the rotary embedding is stretched")
    theta_name, share_name = family.rotary_names
    return read_rope(
        fields,
        head_dim=head_dim,
        max_len=max_len,
        interleaved=family.interleaved,
        theta_name=theta_name,
        share_name=share_name,
        share=family.rotary_share,
        default_theta=family.default_theta,
        other_kinds=family.rotary_kinds,
        layer_kind=kind,
        ntk_alpha=family.ntk_alpha,
        local=family.local_theta if kind == SLIDING else None,
        query_scaled=family.query_scaled,
    )


def _windows(
    fields: Fields, family: Family, kinds: Sequence[str] | None, num_layers: int, max_len: int
) -> tuple[int | None, ...]:
    """The sliding window of every layer. A window that is null in the file is no window."""
    everywhere: tuple[int | None, ...] = (None,) * num_layers
    if family.window == "attention_types":
        local = fields.integer("window_size", 256)
        return tuple(local if kind == "local" else None for kind in _attention_types(fields, num_layers))
    used = fields.flag("use_sliding_window", family.window in ("all", "pattern", "listed"))
    if family.window == "none":
        window = fields.data.get("sliding_window")
        if used or (window is not None and "use_sliding_window" not in fields.data and _narrow(window, max_len)):
            raise fields.error("sliding_window", f"is {shown(window)}: this architecture is not computed with one")
        return everywhere
    null = not fields.has("sliding_window") and (family.default_window is None or "sliding_window" in fields.data)
    if null or (family.window == "by_layer" and not used):
        if kinds is not None and SLIDING in kinds and family.window != "pattern":
            raise fields.error("layer_types", "names sliding_attention, but there is no sliding_window in use")
        return everywhere
    window = fields.integer("sliding_window", family.default_window)
    if kinds is not None:
        return tuple(window if kind == SLIDING else None for kind in kinds)
    if family.window == "all":
        return (window,) * num_layers
    if family.rotary_layers != "all":
        raise fields.error("layer_types", "is missing: it says which layers have the sliding window")
    first = fields.number("max_window_layers", 28)
    return tuple(window if layer >= first else None for layer in range(num_layers))


def _attention_types(fields: Fields, num_layers: int) -> list[str]:
    """GPT-Neo's: lists of kinds, and how often each list is there."""
    stored = fields.data.get("attention_types", [[["global", "local"], num_layers // 2]])
    try:
        kinds = [kind for group, count in stored for _ in range(min(count, num_layers + 1)) for kind in group]
        right = len(kinds) == num_layers and set(kinds) <= {"global", "local"}
    except (TypeError, ValueError):
        right = False
    if not right:
        raise fields.error("attention_types", f"must hold {num_layers} of global and local, got {shown(stored)}")
    return kinds


def _narrow(window: Any, max_len: int) -> bool:
    return not isinstance(window, int) or window < max_len


def _layer_types(fields: Fields, family: Family, num_layers: int) -> Sequence[str] | None:
    """The kind of every layer, if the file says it; in a family with a pattern, one of so many is full else."""
    kinds = fields.data.get("layer_types")
    if family.window in ("none", "attention_types"):
        return None
    if kinds is None and family.window == "pattern":
        every = fields.integer("sliding_window_pattern", family.pattern)
        return [SLIDING if (layer + 1) % every else FULL for layer in range(num_layers)]
    if kinds is None and family.window == "listed":
        raise fields.error("layer_types", "is missing: it says which layers have the sliding window")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise fields.error("layer_types", f"must hold {num_layers} of {FULL}, {SLIDING}, got {shown(kinds)}")
    return kinds


def _scales(fields: Fields, family: Family, head_dim: int, num_layers: int) -> tuple[float, ...]:
    """1/sqrt(head_dim) unless the file has a factor of its own, with GPT-2's two switches; other families have these in
    their files and ignore them."""
    if family.fixed_scale is not None:
        return (family.fixed_scale,) * num_layers
    if family.scales.attention is not None:
        return (fields.positive(family.scales.attention, 1.0),) * num_layers
    scale = head_dim**-0.5 if family.scale_name is None else fields.positive(family.scale_name, head_dim) ** -0.5
    if not family.scale_switches:
        return (scale,) * num_layers
    if not fields.flag("scale_attn_weights", True):
        scale = 1.0
    if fields.flag("scale_attn_by_inverse_layer_idx", False):
        return tuple(scale / (layer + 1) for layer in range(num_layers))
    return (scale,) * num_layers
