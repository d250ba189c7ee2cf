"""Writing the model folder: weights, configuration and the held-out text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from story_corpus import BOS, END, EOS
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

DOCUMENT_SEPARATOR = f"\n{EOS}\n"


def save_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write `config.json`, `generation_config.json` and bfloat16 `model.safetensors`."""
    weights = {
        name: value.detach().to(torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config
    bos, eos, end = (tokenizer.token_to_id(token) for token in (BOS, EOS, END))
    layout = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": config.initializer_range,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": "bfloat16",
    }
    _write_json(folder / "config.json", layout)
    generation = {
        "bos_token_id": bos,
        "eos_token_id": [eos, end],
        "pad_token_id": eos,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "max_new_tokens": 256,
    }
    _write_json(folder / "generation_config.json", generation)


def write_held_out(documents: list[str], folder: Path) -> None:
    """Write `heldout.txt`; a line with only the end-of-text token separates the documents."""
    (folder / "heldout.txt").write_text(DOCUMENT_SEPARATOR.join(documents) + "\n")


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
