"""What a GGUF file's metadata says of the model, in the words of a config.json and a generation_config.json.

A key of the architecture that is not known here may change what is computed, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flover.errors import ModelError
from flover.files import shown
from flover.sampling_checks import PARAMETERS
from flover.source import TensorInfo
from flover.source.gguf_architecture import Architecture
from flover.source.gguf_architectures import ARCHITECTURES
from flover.source.gguf_file import GgufFile, Numbers, Texts

_PATTERN = "attention.sliding_window_pattern"
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
ROTARY_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors that are no weights but divide the rotary frequencies: those of Llama 3.1, and those of LongRoPE."""
END_TEXTS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
"""Control tokens that end an answer whatever the metadata says, as llama.cpp has it."""
_CONTROL = 3
_ROTARY = frozenset(
    f"rope.{key}"
    for key in (
        "freq_base",
        "dimension_count",
        "scale_linear",
        "scaling.type",
        "scaling.factor",
        "scaling.original_context_length",
        "scaling.attn_factor",
        "scaling.finetuned",
        "scaling.yarn_attn_factor",
        "scaling.yarn_beta_fast",
        "scaling.yarn_beta_slow",
        "scaling.yarn_log_multiplier",
    )
)
_SAMPLING = {known.gguf: known.recommended for known in PARAMETERS.values() if known.gguf}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_gating_func": (1,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "expert_weights_scale": (0.0, 1.0),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "logit_scale": (1.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
}
_IGNORED = ("vocab_size", "tensor_data_layout", "attention.value_length")


def config_of(
    file: GgufFile, tensors: Mapping[str, TensorInfo], numbers: Callable[[TensorInfo], list[float]]
) -> dict[str, Any]:
    """The config.json of a file with these `tensors`, of which `numbers` reads one. Raises `ModelError`."""
    name = file.metadata.get("general.architecture")
    known = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if known is None:
        raise ModelError(
            f"{file.path}: general.architecture {shown(name)} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    own = {key.removeprefix(f"{name}."): value for key, value in file.metadata.items() if key.startswith(f"{name}.")}
    known = _variant(known, own)
    _check_keys(file, known, own)
    config: dict[str, Any] = {"architectures": [known.architecture], "model_type": known.model_type, **known.fixed}
    config |= {name: own[key] for key, name in known.names.items() if key in own}
    for field, flag in known.flags.items():
        tensor, there, missing = (flag, True, False) if isinstance(flag, str) else flag
        config[field] = there if {tensor, tensor.replace(".attn_q.", ".attn_qkv.")} & tensors.keys() else missing
    if _PATTERN in own and "attention.sliding_window" in known.names:
        config |= _windowed(file, own)
    config |= _by_heads(known, own, config)
    config["vocab_size"] = _vocab_size(file, known, tensors)
    config["tie_word_embeddings"] = HEAD not in tensors
    config["eos_token_id"] = file.metadata.get("tokenizer.ggml.eos_token_id")
    if known.rotary:
        factors = {key: numbers(tensors[key]) for key in ROTARY_FACTORS if key in tensors}
        own_rotary = {name: own[key] for key, name in known.rotary_names.items() if key in own}
        config["rope_parameters"] = {**_rotary(file, own, factors), **known.rotary_fixed, **own_rotary}
    if known.local_rotary:
        theta = known.local_theta or config["rope_parameters"]["rope_theta"]
        local = {"rope_type": "default", "rope_theta": own.get("rope.freq_base_swa", theta)}
        config["rope_parameters"] = {"full_attention": config["rope_parameters"], "sliding_attention": local}
    if known.large_scale is not None and own.get("block_count") == known.large_scale:
        config["query_pre_attn_scalar"] = _share(file, own)
    return config


def _variant(known: Architecture, own: Mapping[str, Any]) -> Architecture:
    """What the architecture stands for in a file with this metadata."""
    for other in known.variants:
        value = own.get(other.key)
        if value == other.value if other.value is not None else value:
            return other.architecture
    return known


def _by_heads(known: Architecture, own: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp derives from the number of heads where the metadata leave it out."""
    size = _head_dim(own)
    if not isinstance(size, int) or size < 1:
        return {}
    found: dict[str, Any] = {}
    if "head_dim" in known.names.values():
        found["head_dim"] = size
    if "attention_multiplier" in known.names.values() and "attention_multiplier" not in config:
        found["attention_multiplier"] = size**-0.5
    return found


def _head_dim(own: Mapping[str, Any]) -> Any:
    heads, width = own.get("attention.head_count"), own.get("embedding_length")
    if isinstance(heads, int) and isinstance(width, int) and heads > 0:
        return own.get("attention.key_length", width // heads)
    return own.get("attention.key_length")


def _windowed(file: GgufFile, own: Mapping[str, Any]) -> dict[str, Any]:
    """Which layers have the window: of each whether it has, or that one of so many has none."""
    pattern = own[_PATTERN]
    if not isinstance(pattern, list):
        return {"sliding_window_pattern": pattern}
    if len(pattern) != own.get("block_count"):
        raise ModelError(f"{file.path}: {_PATTERN} must be of block_count layers, got {len(pattern)}")
    return {"layer_types": ["sliding_attention" if windowed else "full_attention" for windowed in pattern]}


def _share(file: GgufFile, own: Mapping[str, Any]) -> int:
    """The hidden size divided by the heads."""
    width, heads = own.get("embedding_length"), own.get("attention.head_count")
    if not isinstance(width, int) or not isinstance(heads, int) or heads < 1:
        raise ModelError(f"{file.path}: embedding_length and attention.head_count must be numbers above 0")
    return width // heads


def is_paired(file: GgufFile, tensor: str) -> bool:
    """Whether the rows of a tensor are in pairs."""
    known = ARCHITECTURES.get(file.metadata.get("general.architecture", ""))
    return known is not None and known.paired and (".attn_q." in tensor or ".attn_k." in tensor)


def generation_config_of(file: GgufFile) -> dict[str, Any]:
    """The generation_config.json of a file: what ends a sequence, and how to sample if it says so."""
    metadata = file.metadata
    ends = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    texts, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if isinstance(texts, Texts) and isinstance(kinds, Numbers):
        control = [index for index, kind in enumerate(kinds.read()[: texts.count]) if kind == _CONTROL]
        special = dict(zip(texts.pick(control), control, strict=True))
        ends += [special[text] for text in END_TEXTS if text in special]
    found: dict[str, Any] = {"eos_token_id": list(dict.fromkeys(end for end in ends if end is not None))}
    for key, name in _SAMPLING.items():
        if f"general.sampling.{key}" in metadata:
            found[name] = metadata[f"general.sampling.{key}"]
    return found


def _check_keys(file: GgufFile, known: Architecture, own: Mapping[str, Any]) -> None:
    read = {*known.names, *known.rotary_names, *known.ignored, *_IGNORED, *(_ROTARY if known.rotary else ())}
    if known.local_rotary:
        read.add("rope.freq_base_swa")
    for key in known.needed:
        if key not in own:
            raise ModelError(f"{file.path}: {key} is missing: convert the model again with a newer llama.cpp")
    for key, value in own.items():
        if key == _PATTERN and "attention.sliding_window" in known.names and not isinstance(value, Numbers | Texts):
            continue
        if isinstance(value, Numbers | list | Texts):
            raise ModelError(f"{file.path}: {key} differs from layer to layer, which is not supported")
        neutral = (known.expected[key],) if key in known.expected else _NEUTRAL.get(key, ())
        if (key not in read or key in known.expected) and value not in neutral:
            raise ModelError(f"{file.path}: {key} is {shown(value)}: this architecture is not computed with it")
    if (
        "attention.key_length" in own
        and own.get("attention.value_length", own["attention.key_length"]) != own["attention.key_length"]
    ):
        raise ModelError(
            f"{file.path}: attention.value_length must be attention.key_length, which is {own['attention.key_length']}"
        )


def _vocab_size(file: GgufFile, known: Architecture, tensors: Mapping[str, TensorInfo]) -> int:
    embedding = tensors.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{file.path} has no {EMBEDDING} of two dimensions")
    if embedding.shape[0] == known.other_vocab:
        raise ModelError(
            f"{file.path}: {known.other_vocab} tokens are those of a model whose output projection is normalised, "
            "which a GGUF file does not say: load its safetensors"
        )
    return embedding.shape[0]


def _rotary(file: GgufFile, own: Mapping[str, Any], factors: Mapping[str, list[float]]) -> dict[str, Any]:
    """`rope_parameters` as transformers 5 writes them."""
    head_dim = _head_dim(own)
    turned = own.get("rope.dimension_count", head_dim)
    found: dict[str, Any] = {"rope_theta": own.get("rope.freq_base", 10_000.0)}
    if isinstance(turned, int) and isinstance(head_dim, int) and turned < head_dim:
        found["partial_rotary_factor"] = (turned + 0.5) / head_dim  # an integer again when it is multiplied and cut
    kind = own.get("rope.scaling.type", "linear" if "rope.scale_linear" in own else "none")
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear", 1.0))
    original = own.get("rope.scaling.original_context_length", own.get("context_length"))
    if factors:
        return found | _divided(file, own, kind, factors, original)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return found | {"rope_type": "default"}
    if own.get("rope.scaling.attn_factor", 1.0) != 1.0:
        raise ModelError(f"{file.path}: rope.scaling.attn_factor must be 1 for {shown(kind)}")
    return found | {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original} | _yarn(own)


def _yarn(own: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata say of YaRN's ramp and of its factor on cosines and sines."""
    names = {"yarn_attn_factor": "attention_factor", "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    found = {name: own[f"rope.scaling.{key}"] for key, name in names.items() if f"rope.scaling.{key}" in own}
    if own.get("rope.scaling.yarn_log_multiplier"):
        found |= {"mscale": 1.0, "mscale_all_dim": own["rope.scaling.yarn_log_multiplier"]}
    return found


def _divided(
    file: GgufFile, own: Mapping[str, Any], kind: Any, factors: Mapping[str, list[float]], original: Any
) -> dict[str, Any]:
    """Frequencies that are divided by numbers of the file: those of Llama 3.1 whatever the length of the text."""
    every, short, long = (factors.get(name) for name in ROTARY_FACTORS)
    if every is not None and kind == "none" and not short and not long:
        length = own.get("context_length")
        return {
            "rope_type": "longrope",
            "short_factor": every,
            "long_factor": every,
            "attention_factor": 1.0,
            "original_max_position_embeddings": length,
        }
    if every is None and short and long:
        found = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
        if "rope.scaling.attn_factor" in own:
            found["attention_factor"] = own["rope.scaling.attn_factor"]
        return found | {"original_max_position_embeddings": original}
    raise ModelError(f"{file.path}: {', '.join(factors)} do not fit rope.scaling.type {shown(kind)}")
