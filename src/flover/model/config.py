"""What one model is: every switch of the one decoder, as frozen data.

It knows nothing of Hugging Face's names (see `families.py`) and imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from flover.ops import DTYPE_BYTES, DType, Routing

NormKind = Literal["rms", "layer"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "quick_gelu", "swiglu_oai"]
RopeScaling = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
Residual = Literal["sequential", "parallel", "parallel_shared_norm", "sandwich", "post_norm"]
QKNorm = Literal["head", "all_heads", "turned_head"]
"""Over every head by itself (Qwen3), over all query heads at once and all key heads at once (OLMo 2), or over every
head after the rotary embedding (HunYuan)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: which dimensions of a head turn, and how fast.

    The first `dim` dimensions of every head turn, in pairs: dimension i with i + dim/2, or, `interleaved`,
    2i with 2i + 1 (GPT-J). `scaling` names how the frequencies are stretched for long contexts; the fields after
    it are that scaling's parameters (`rope.py` has the formulas and their sources).
    """

    dim: int
    theta: float = 10_000.0
    interleaved: bool = False
    scaling: RopeScaling = "default"
    factor: float = 1.0
    original_max_len: int = 0  # context of the training before the stretch
    attention_factor: float | None = None  # yarn, longrope: multiplies cos and sin; None derives it from factor
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    short_factor: tuple[float, ...] = ()  # longrope, one per pair of dimensions
    long_factor: tuple[float, ...] = ()  # longrope
    # yarn: queries at position p are multiplied by 1 + query_beta * ln(1 + p // original_max_len) (Ministral 3)
    query_beta: float = 0.0

    @property
    def switch_len(self) -> int | None:
        """Tokens up to which a request turns otherwise than longer ones (`rope.py`); None if all turn alike."""
        return self.original_max_len if self.scaling in ("dynamic", "longrope") else None

    def longest_max_len(self, trained: int) -> int:
        """Longest context of a model whose config says `trained`."""
        if self.scaling in ("linear", "dynamic"):
            return int(trained * self.factor)
        if self.scaling == "yarn":
            return max(trained, int(self.original_max_len * self.factor))
        return trained


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertsConfig:
    """A feed-forward block of `count` experts, each as wide as `intermediate_size`, of which a token uses those that
    `routing` chooses; and beside them one of `shared_intermediate_size` (0: none) that every token uses, through a gate
    of its own if `shared_gate`."""

    count: int
    routing: Routing
    intermediate_size: int
    shared_intermediate_size: int = 0
    shared_gate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """What may differ from layer to layer: how far a token sees (`window` tokens, itself included; None: all), the
    factor on query · key, the rotary embedding (None: none), and experts in the place of one feed-forward block."""

    window: int | None = None
    attention_scale: float
    rope: RopeConfig | None = None
    experts: ExpertsConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder, described. Lengths are in tokens.

    The feed-forward block is `down(act(gate(x)) * up(x))` when `gated`, else `down(act(up(x)))`.
    `residual`: the feed-forward block reads what attention left ("sequential"), or both read the block's input,
    through two norms ("parallel", GPT-NeoX) or one ("parallel_shared_norm", GPT-J); "sandwich" is sequential, with a
    norm behind each of the two as well (Gemma 3), "post_norm" with those norms alone (EXAONE 4).
    """

    architecture: str
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    norm: NormKind = "rms"
    norm_eps: float = 1e-6
    activation: Activation = "silu"
    gated: bool = True
    residual: Residual = "sequential"
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    tied_embeddings: bool = False
    qk_norm: QKNorm | None = None  # RMS norm of queries and keys
    learned_positions: bool = False  # a table of position embeddings (GPT-2)
    embedding_norm: bool = False  # a norm of embeddings (BLOOM)
    alibi_slopes: tuple[float, ...] = ()  # of each head, if scores fall with the distance (ALiBi)
    attn_logit_softcap: float = 0.0  # c: scores are c * tanh(score / c); 0: as they are
    final_logit_softcap: float = 0.0  # the same of logits
    sinks: bool = False  # a score of each head that takes part in the softmax alone (gpt-oss)
    norm_weight: bool = True  # whether the weights of norms are in the checkpoint; else they are one
    norm_bias: bool = True  # whether a layer norm's bias is in the checkpoint; else it is zero
    embedding_scale: float = 1.0  # factor on embeddings
    residual_scale: float = 1.0  # factor on what attention and feed-forward add to the residual stream (`folds.py`)
    logit_scale: float = 1.0  # factor on logits (`folds.py`)
    eos_ids: tuple[int, ...] = ()
    checkpoint_dtype: str = "float32"  # as config.json names it; what the files really hold is in the files

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The different rotary embeddings of the layers."""
        return tuple(dict.fromkeys(layer.rope for layer in self.layers if layer.rope is not None))

    @property
    def experts(self) -> ExpertsConfig | None:
        """Those of the layers that have some, which are alike."""
        return next((layer.experts for layer in self.layers if layer.experts is not None), None)

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together; the value heads have the same."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Width of the packed projection: queries, keys, values."""
        return self.query_size + 2 * self.kv_size

    @property
    def default_max_len(self) -> int:
        """Context to serve unless the settings say otherwise: what the model was made for, scaling included.

        Dynamic scaling leaves short contexts as they were trained; it is for who asks for more.
        """
        if all(rope.scaling in ("default", "dynamic") for rope in self.ropes):
            return self.max_position_embeddings
        return self.longest_max_len

    @property
    def longest_max_len(self) -> int:
        """Longest context that may be asked for: what every layer's positions can do."""
        most = self.max_position_embeddings
        return min((rope.longest_max_len(most) for rope in self.ropes), default=most)

    def switch_len(self, max_len: int) -> int | None:
        """Tokens up to which requests turn otherwise than longer ones, when contexts up to `max_len` are served; None
        if all turn alike."""
        found = [rope.switch_len for rope in self.ropes if rope.switch_len is not None]
        return found[0] if found and found[0] < max_len else None

    def kv_bytes_per_token(self, dtype: DType) -> int:
        """Bytes of keys and values of one token in all layers; int8 has a float32 scale for each head."""
        scales = self.num_kv_heads * DTYPE_BYTES["float32"] if dtype == "int8" else 0
        return 2 * self.num_layers * (self.kv_size * DTYPE_BYTES[dtype] + scales)

    def num_parameters(self) -> int:
        """Numbers in all weights; tied weights count once."""
        return sum(math.prod(shape) for shape in parameter_shapes(self).values())


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the decoder, in the order they are used.

    Linear weights are [out, in]. Queries, keys and values are one linear (`qkv`, in this order), gate and up
    another (`up`, in this order), so that a layer has four linears; `up` and `down` are there for each expert.
    """
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab_size, hidden)}
    if config.embedding_norm:
        shapes |= _norm_shapes("embedding_norm", config)
    if config.learned_positions:
        shapes["positions.weight"] = (config.max_position_embeddings, hidden)
    for layer in range(config.num_layers):
        for name, shape in _layer_shapes(config, config.layers[layer].experts).items():
            shapes[f"layers.{layer}.{name}"] = shape
    shapes |= _norm_shapes("final_norm", config)
    if not config.tied_embeddings:
        shapes["head.weight"] = (config.vocab_size, hidden)
    if config.head_bias:
        shapes["head.bias"] = (config.vocab_size,)
    return shapes


def _layer_shapes(config: ModelConfig, experts: ExpertsConfig | None) -> dict[str, tuple[int, ...]]:
    hidden = config.hidden_size
    shapes = {} if config.residual == "post_norm" else _norm_shapes("attention_norm", config)
    shapes |= _linear_shapes("qkv", config.qkv_size, hidden, config.qkv_bias)
    if config.qk_norm in ("head", "turned_head"):
        shapes |= {"query_norm.weight": (config.head_dim,), "key_norm.weight": (config.head_dim,)}
    if config.qk_norm == "all_heads":
        shapes |= {"query_norm.weight": (config.query_size,), "key_norm.weight": (config.kv_size,)}
    if config.sinks:
        shapes["sinks.weight"] = (config.num_heads,)
    shapes |= _linear_shapes("out", hidden, config.query_size, config.attention_out_bias)
    if config.residual not in ("parallel_shared_norm", "post_norm"):
        shapes |= _norm_shapes("mlp_norm", config)
    if config.residual in ("sandwich", "post_norm"):
        shapes |= _norm_shapes("attention_post_norm", config) | _norm_shapes("mlp_post_norm", config)
    if experts is None:
        return shapes | _mlp_shapes("", config, config.intermediate_size)
    shapes |= _linear_shapes("router", experts.count, hidden, config.mlp_bias)
    for expert in range(experts.count):
        shapes |= _mlp_shapes(f"experts.{expert}.", config, experts.intermediate_size)
    if experts.shared_intermediate_size:
        shapes |= _mlp_shapes("shared.", config, experts.shared_intermediate_size)
    if experts.shared_gate:
        shapes["shared_gate.weight"] = (1, hidden)
    return shapes


def _mlp_shapes(prefix: str, config: ModelConfig, inner: int) -> dict[str, tuple[int, ...]]:
    up = _linear_shapes(f"{prefix}up", 2 * inner if config.gated else inner, config.hidden_size, config.mlp_bias)
    return up | _linear_shapes(f"{prefix}down", config.hidden_size, inner, config.mlp_bias)


def _norm_shapes(name: str, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if config.norm_weight:
        shapes[f"{name}.weight"] = (config.hidden_size,)
    if config.norm == "layer" and config.norm_bias:
        shapes[f"{name}.bias"] = (config.hidden_size,)
    return shapes


def _linear_shapes(name: str, out_size: int, in_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (out_size, in_size)}
    if bias:
        shapes[f"{name}.bias"] = (out_size,)
    return shapes
