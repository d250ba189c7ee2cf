"""Converts a Hugging Face directory to GGUF: the same tensors, in the formats that `llama-quantize` chooses.

llama.cpp's rotary embedding of LLaMA pairs dimensions 2i and 2i + 1 of a head, Hugging Face's i and i + head_dim / 2,
so the rows of the query and key projections are permuted. The experts of a layer are stacked. Only LLaMA and Qwen3-MoE
are supported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from flover.errors import ModelError
from flover.model.config import ModelConfig
from flover.model.formats import has_more_bits
from flover.model.hf_config import read_model_directory
from flover.source import ModelSource, TensorInfo, open_source
from flover.source.numbers import widen
from flover_benchmarks.rivals.gguf import Facts, Tensor, write_gguf
from flover_benchmarks.rivals.model import NUM_BYTE_PIECES, Progress, pieces
from flover_benchmarks.rivals.quants import Floats, fits

FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15, "bf16": 32}
"""llama.cpp's file type numbers; norms are float32 in all of them."""
QUANT_VERSION = 2
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate": "ffn_gate_inp",
}
_EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}
_ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen3MoeForCausalLM": "qwen3moe"}


def convert(source: Path, target: Path, kind: str, progress: Progress) -> None:
    """Write the model in `source` as a GGUF file of a format. Raises `ModelError` for others than
    plain LLaMA and Qwen3-MoE."""
    _, config = read_model_directory(source)
    check_convertible(config)
    files = open_source(source)
    groups: dict[str, list[TensorInfo]] = {}
    for info in files.tensors():
        name = gguf_name(info.name)
        if name is not None:
            groups.setdefault(name, []).append(info)
    tensors: list[Tensor] = []
    for name, infos in groups.items():
        stacked = name.removesuffix(".weight").endswith(tuple(_EXPERTS.values()))
        infos.sort(key=lambda info: _expert_of(info.name))
        shape = (len(infos), *infos[0].shape) if stacked else infos[0].shape
        own = kind_of(name, infos[0], kind, config.num_layers)
        tensors.append(Tensor(name, shape, own, _reader(files, infos, config, stacked)))
    total = len(tensors)
    counted = [_counting(tensor, index, total, target.name, progress) for index, tensor in enumerate(tensors)]
    write_gguf(target, facts_of(config, kind), counted)


def check_convertible(config: ModelConfig) -> None:
    """Raise `ModelError` unless llama.cpp's `llama` or `qwen3moe` with plain rotary embedding computes this model."""
    plain = [rope.scaling == "default" and rope.dim == config.head_dim for rope in config.ropes] == [True]
    if config.architecture not in _ARCHITECTURES or config.qkv_bias or config.mlp_bias or not plain:
        raise ModelError(
            "only LLaMA's shape and Qwen3-MoE's without biases and rope scaling are written as GGUF, not this "
            f"{config.architecture}"
        )


def gguf_name(name: str) -> str | None:
    """llama.cpp's name of a tensor, for all experts of a layer the same; None for one that it does not use."""
    if name in _TOP:
        return _TOP[name]
    parts = name.split(".")
    middle = ".".join(parts[3:-1])
    own = _EXPERTS.get(parts[-2]) if middle.startswith("mlp.experts.") else _LAYER.get(middle)
    return f"blk.{parts[2]}.{own}.weight" if own is not None and parts[-1] == "weight" else None


def _expert_of(name: str) -> int:
    """The number of the expert whose tensor this is; 0 for all else."""
    parts = name.split(".")
    return int(parts[parts.index("experts") + 1]) if "experts" in parts else 0


def kind_of(name: str, info: TensorInfo, kind: str, num_layers: int) -> str:
    """The format of one tensor in a file of a format, as `llama-quantize` chooses: norms stay float32, and the head
    of a Q4_0 or Q4_K_M file is Q6_K, or Q8_0 if its rows are not whole Q6_K blocks. In a Q4_K_M file the values and
    what leaves the feed-forward are Q6_K too, in half of the layers."""
    if len(info.shape) == 1 or name.endswith("ffn_gate_inp.weight"):
        return "f32"
    if kind in ("q4_0", "q4_k_m") and name == "output.weight":
        return "q6_k" if fits("q6_k", info.shape[-1]) else "q8_0"
    if kind == "q4_k_m":
        large = name.endswith(("attn_v.weight", "ffn_down.weight", "ffn_down_exps.weight"))
        kind = "q6_k" if large and has_more_bits(name, num_layers) else "q4_k"
    if not fits(kind, info.shape[-1]):
        raise ModelError(f"{info.name} has rows of {info.shape[-1]} numbers, which are no whole blocks of {kind}")
    return kind


def reorder_heads(rows: Floats, num_heads: int) -> Floats:
    """Rows of a projection [heads * head_dim, …]: of each head 0, half, 1, half + 1, … instead of 0, 1, …"""
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def facts_of(config: ModelConfig, kind: str) -> Facts:
    """The metadata of a file: hyperparameters, and a vocabulary with one text per id."""
    (rope,) = config.ropes
    texts = pieces(config.vocab_size)
    types = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * NUM_BYTE_PIECES
    types += [_NORMAL] * (config.vocab_size - len(types))
    architecture = _ARCHITECTURES[config.architecture]
    sizes = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.dimension_count": rope.dim,
        "rope.freq_base": float(rope.theta),
        "vocab_size": config.vocab_size,
    }
    experts = config.layers[0].experts
    if experts is not None:
        sizes["expert_count"] = experts.count
        sizes["expert_used_count"] = experts.routing.top_k
        sizes["expert_feed_forward_length"] = experts.intermediate_size
    return {
        "general.architecture": architecture,
        "general.name": "random",
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": QUANT_VERSION,
        **{f"{architecture}.{name}": value for name, value in sizes.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [-float(number) for number in range(len(texts))],
        "tokenizer.ggml.token_type": types[: len(texts)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def _reader(
    source: ModelSource, infos: Sequence[TensorInfo], config: ModelConfig, stacked: bool
) -> Callable[[], Floats]:
    def read() -> Floats:
        parts = []
        for info in infos:
            ((_, tensor),) = source.read([info])
            rows = widen(tensor)
            if config.architecture == "LlamaForCausalLM" and info.name.endswith("q_proj.weight"):
                rows = reorder_heads(rows, config.num_heads)
            elif config.architecture == "LlamaForCausalLM" and info.name.endswith("k_proj.weight"):
                rows = reorder_heads(rows, config.num_kv_heads)
            parts.append(np.array(rows))
        return np.stack(parts) if stacked else parts[0]

    return read


def _counting(tensor: Tensor, index: int, total: int, name: str, progress: Progress) -> Tensor:
    def read() -> Floats:
        progress(f"writing {name}", index, total)
        return tensor.read()

    return Tensor(tensor.name, tensor.shape, tensor.kind, read)
