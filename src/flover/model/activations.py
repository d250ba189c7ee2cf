"""Memory that a forward takes beside weights, keys and values on the CPU. Arithmetic only."""

from __future__ import annotations

from flover.model.config import LayerConfig, ModelConfig
from flover.model.formats import Formats, kinds_of
from flover.ops import BLOCKS, WeightFormat

_FLOAT_BYTES = 4


def activation_bytes(model: ModelConfig, formats: Formats, num_tokens: int) -> int:
    """Bytes of the activations of a forward of `num_tokens` tokens, nearly: the buffers of its operations that are
    needed at one time (`ops/cpu_program.py`), and the inputs of its largest product as this multiplies them.

    Each expert that a token chooses has activations of its own: eight of them take ten times what the residual stream
    does.
    """
    large = {name: matrix for name, matrix in formats.items() if name.startswith("layers.") and ".router." not in name}
    per_input = max((_bytes_per_input(kind) for kind in kinds_of(large)), default=_FLOAT_BYTES)
    width = max(_width(model, layer) for layer in model.layers)
    inputs = max(_inputs(model, layer) for layer in model.layers)
    return int(num_tokens * (width * _FLOAT_BYTES + inputs * per_input))


def _width(model: ModelConfig, layer: LayerConfig) -> int:
    """Numbers of a token in the widest part of a layer: residual stream, its norm and what is to be added to it, angles
    of the rotary embedding, and what attention or the feed-forward block needs."""
    hidden, heads = model.hidden_size, model.num_heads * model.head_dim
    common = 3 * hidden + len(model.ropes) * model.head_dim
    attention = 3 * heads + 2 * model.num_kv_heads * model.head_dim
    experts = layer.experts
    if experts is None:
        return common + max(attention, model.intermediate_size + hidden)
    chosen = experts.routing.top_k
    mixture = experts.count + chosen * (experts.intermediate_size + hidden + 2) + hidden
    shared = experts.shared_intermediate_size and experts.shared_intermediate_size + hidden
    return common + max(attention, mixture + shared)


def _inputs(model: ModelConfig, layer: LayerConfig) -> int:
    """Inputs of a token in the product that has most."""
    experts = layer.experts
    plain = max(model.hidden_size, model.num_heads * model.head_dim)
    if experts is None:
        return max(plain, model.intermediate_size)
    chosen = experts.routing.top_k * max(model.hidden_size, experts.intermediate_size)
    return max(plain, chosen, experts.shared_intermediate_size)


def _bytes_per_input(kind: WeightFormat) -> float:
    """Of an activation that is multiplied by weights of this format: 8 bits and a scale, or a float."""
    if kind in ("int8", "int4"):
        return 1.0
    return 1.5 if kind in BLOCKS and not kind.startswith("fp8") else _FLOAT_BYTES
