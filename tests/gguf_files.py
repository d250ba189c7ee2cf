"""GGUF files from the tiny checkpoints of `checkpoints.py`, written by llama.cpp's own package under its own names.

Names come from `gguf.get_tensor_name_map`, and what a converter does to weights is written
down here again, as llama.cpp's convert_hf_to_gguf has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from flover_benchmarks.kernels.blocks import random_blocks
from safetensors.torch import load_file

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
    "phi": gguf.MODEL_ARCH.PHI2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "stablelm": gguf.MODEL_ARCH.STABLELM,
    "starcoder2": gguf.MODEL_ARCH.STARCODER2,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "granitemoe": gguf.MODEL_ARCH.GRANITE_MOE,
    "granitemoeshared": gguf.MODEL_ARCH.GRANITE_MOE,
    "olmoe": gguf.MODEL_ARCH.OLMOE,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
    "olmo": gguf.MODEL_ARCH.OLMO,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "olmo3": gguf.MODEL_ARCH.OLMO2,
    "glm": gguf.MODEL_ARCH.CHATGLM,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "ernie4_5": gguf.MODEL_ARCH.ERNIE4_5,
    "hunyuan": gguf.MODEL_ARCH.HUNYUAN_DENSE,
    "hunyuan_moe": gguf.MODEL_ARCH.HUNYUAN_MOE,
    "jais2": gguf.MODEL_ARCH.JAIS2,
    "exaone4": gguf.MODEL_ARCH.EXAONE4,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gpt_bigcode": gguf.MODEL_ARCH.STARCODER,
    "bloom": gguf.MODEL_ARCH.BLOOM,
    "mpt": gguf.MODEL_ARCH.MPT,
    "falcon": gguf.MODEL_ARCH.FALCON,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
    "arcee": gguf.MODEL_ARCH.ARCEE,
    "nemotron": gguf.MODEL_ARCH.NEMOTRON,
    "cohere": gguf.MODEL_ARCH.COMMAND_R,
    "cohere2": gguf.MODEL_ARCH.COHERE2,
}
PAIRED = (
    "llama",
    "mixtral",
    "smollm3",
    "arcee",
    "granite",
    "granitemoe",
    "granitemoeshared",
    "olmo",
    "internlm2",
    "xverse",
    "baichuan",
    "mistral3",
    "ministral3",
    "minicpm",
)
LLAMAS = {
    "internlm2": gguf.MODEL_ARCH.INTERNLM2,
    "xverse": gguf.MODEL_ARCH.XVERSE,
    "exaone": gguf.MODEL_ARCH.EXAONE,
    "baichuan": gguf.MODEL_ARCH.BAICHUAN,
    "qwen": gguf.MODEL_ARCH.QWEN,
    "mistral3": gguf.MODEL_ARCH.MISTRAL3,
    "minicpm": gguf.MODEL_ARCH.MINICPM,
}
"""Architectures of their own here, whose checkpoints are LLaMA's, or Granite's (MiniCPM) or Qwen 2's (Qwen 1)."""
FLOATS = {"F32": gguf.GGMLQuantizationType.F32, "F16": gguf.GGMLQuantizationType.F16}


def write_gguf(
    directory: Path,
    path: Path,
    family: str,
    kind: str | Callable[[str], str] = "F32",
    *,
    metadata: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    shards: int = 0,
) -> Path:
    """Write the checkpoint in `directory` as a GGUF file, in parts of `shards` tensors. `kind` is the type of its
    matrices, or says it by their names."""
    config = json.loads((directory / "config.json").read_text())
    arch = (ARCHITECTURES | LLAMAS)[family]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch], split_max_tensors=shards)
    _write_numbers(writer, config, family)
    for key, value in (metadata or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    named = gguf.MODEL_ARCH.QWEN2 if family == "qwen" else arch  # queries, keys and values stay apart
    names = gguf.get_tensor_name_map(named, writer_layers(config))
    for name, tensor in stacked(load_file(directory / "model.safetensors")).items():
        array = _converted(name, tensor.float(), config, family).numpy()
        theirs = names.get_name(
            name.removeprefix("transformer.") if family == "bloom" else name, try_suffixes=(".weight", ".bias")
        )
        assert theirs is not None, name
        own = kind if isinstance(kind, str) else kind(theirs)
        if "ffn_gate_inp" in theirs:
            array, own = array.squeeze(), "F32"
        _add(writer, theirs, array, own if array.ndim >= 2 and theirs.endswith("weight") else "F32")
    for name, array in (extra or {}).items():
        _add(writer, name, array, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stacked(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the experts of a layer as one tensor, and gate and up as two."""
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        own = re.fullmatch(r"(.*\.mlp\.experts)\.(gate_up|down)_proj(_bias)?", name)
        if own is not None:  # gpt-oss
            kind = "bias" if own[3] else "weight"
            rows = tensor if own[3] else tensor.swapaxes(1, 2)
            parts = {"gate": rows[:, ::2], "up": rows[:, 1::2]} if own[2] == "gate_up" else {"down": rows}
            found |= {f"{own[1]}.{part}_proj.{kind}": one for part, one in parts.items()}
            continue
        if name.endswith(".sinks"):
            found[f"{name}.weight"] = tensor
            continue
        joined = re.fullmatch(r"(.*)\.(block_sparse_moe|shared_mlp)\.input_linear\.weight", name)
        if joined is not None:
            kind = "experts" if joined[2] == "block_sparse_moe" else "shared_expert"
            for part, rows in zip(("gate", "up"), tensor.chunk(2, dim=-2), strict=True):
                found[f"{joined[1]}.mlp.{kind}.{part}_proj.weight"] = rows
            continue
        all_of_them = re.sub(r"\.experts\.\d+\.", ".experts.", name)
        if all_of_them == name:
            found[name] = tensor
        else:
            number = int(re.search(r"\.experts\.(\d+)\.", name)[1])  # type: ignore[index]
            found.setdefault(all_of_them, {})[number] = tensor
    return {
        name: torch.stack([one[n] for n in range(len(one))]) if isinstance(one, dict) else one
        for name, one in found.items()
    }


def writer_layers(config: dict[str, Any]) -> int:
    return next(config[name] for name in ("num_hidden_layers", "n_layer", "n_layers") if name in config)


def _write_numbers(writer: gguf.GGUFWriter, config: dict[str, Any], family: str) -> None:
    def either(*names: str) -> Any:
        return next((config[name] for name in names if config.get(name) is not None), None)

    width, heads = either("hidden_size", "n_embd", "d_model"), either("num_attention_heads", "n_head", "n_heads")
    head_dim = either("head_dim") or width // heads
    writer.add_context_length(either("max_position_embeddings", "n_positions", "max_seq_len") or 2048)
    writer.add_embedding_length(width)
    writer.add_block_count(writer_layers(config))
    inner = either("intermediate_size", "n_inner", "ffn_hidden_size") or 4 * width
    writer.add_feed_forward_length(2 * inner if family == "qwen" else inner)
    writer.add_head_count(heads)
    if "num_key_value_heads" in config:
        writer.add_head_count_kv(config["num_key_value_heads"])
    elif config["model_type"] in ("falcon", "gpt_bigcode"):
        writer.add_head_count_kv(config["num_kv_heads"] if config.get("new_decoder_architecture") else 1)
    if config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    experts = either("num_local_experts", "num_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(either("num_experts_per_tok", "moe_topk"))
    if family == "hunyuan_moe":
        writer.add_expert_shared_count(1)
        writer.add_expert_shared_feed_forward_length(config["intermediate_size"])
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    shared = either("shared_expert_intermediate_size", "shared_intermediate_size")
    if shared:
        writer.add_expert_shared_feed_forward_length(shared)
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    elif config["model_type"] == "olmo":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_eps(either("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"))
    rope = config.get("rope_parameters")
    if rope and family == "olmo3":
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    rope = rope and rope.get("full_attention", rope)
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config["model_type"] in ("exaone4", "olmo3"):
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    if config.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if "attn_config" in config:
        writer.add_max_alibi_bias(config["attn_config"]["alibi_bias_max"])
    if "logit_scale" in config and config["logit_scale"] is not None:
        writer.add_logit_scale(config["logit_scale"])
    if "residual_multiplier" in config:
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        if family != "minicpm":
            writer.add_attention_scale(config["attention_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if rope and rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope and "llama_4_scaling_beta" in rope:
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if rope and rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if "use_parallel_residual" in config:
        writer.add_parallel_residual(config["use_parallel_residual"])


def _add(writer: gguf.GGUFWriter, name: str, array: np.ndarray, kind: str) -> None:
    type_ = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    elif kind == "F16":
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, blocks_of(np.ascontiguousarray(array), kind), raw_dtype=type_)


def blocks_of(array: np.ndarray, kind: str) -> np.ndarray:
    """The array in blocks; random ones of its shape where the package cannot quantize."""
    try:
        return gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])
    except NotImplementedError:
        generator = np.random.default_rng(array.size)
        rows = random_blocks(kind.lower(), array.size // array.shape[-1], array.shape[-1], generator)  # type: ignore[arg-type]
        return rows.reshape(*array.shape[:-1], -1)


def _converted(name: str, tensor: torch.Tensor, config: dict[str, Any], family: str) -> torch.Tensor:
    if family in ("gemma", "gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
        return tensor + 1
    if family in PAIRED and (".q_proj." in name or ".k_proj." in name):
        heads = config["num_attention_heads" if ".q_proj." in name else "num_key_value_heads"]
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    if family == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T
    if ".query_key_value." in name:
        heads = config.get("num_attention_heads", config.get("n_head"))
        groups = heads if family != "falcon" else config["num_kv_heads"] if config["new_decoder_architecture"] else 1
        parts = tensor.reshape(groups, heads // groups + 2, -1, *tensor.shape[1:])
        return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in (parts[:, :-2], parts[:, -2], parts[:, -1])])
    return tensor
