"""The random model of the comparison: a Hugging Face directory with weights and a tokenizer, from a preset.

Weights are initialised like a new model's (standard deviation 0.02, norms 1) in bfloat16, so that every engine does
the work of a trained one. The tokenizer gives each id a text; converters need one, but requests send token ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from flover.bench.presets import PRESETS
from flover.source.safetensors import SINGLE_FILE

STD = 0.02
NUM_BYTE_PIECES = 128
"""Bytes from 128 up are not tokens: alone they are not text, and servers would hold them back until the next token."""
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
Progress = Callable[[str, int, int], None]
"""A function of (task, done, total)."""


def pieces(vocab_size: int) -> list[str]:
    """The text of every token id, as in LLaMA: three special tokens, single bytes, then words made from the id."""
    special = [UNKNOWN, BEGIN, END, *(f"<0x{byte:02X}>" for byte in range(NUM_BYTE_PIECES))]
    return (special + [f"▁t{number}" for number in range(len(special), vocab_size)])[:vocab_size]


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a LLaMA or Qwen3-MoE checkpoint with this `config.json`."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "post_attention_layernorm": (hidden,),
    }
    if config["model_type"] == "qwen3_moe":
        layer |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,), "mlp.gate": (config["num_experts"], hidden)}
        for number in range(config["num_experts"]):
            layer |= _feed_forward(f"mlp.experts.{number}", hidden, config["moe_intermediate_size"])
    else:
        layer |= _feed_forward("mlp", hidden, config["intermediate_size"])
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (config["vocab_size"], hidden)}


def _feed_forward(name: str, hidden: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.gate_proj": (width, hidden),
        f"{name}.up_proj": (width, hidden),
        f"{name}.down_proj": (hidden, width),
    }


def write_model(config: dict[str, Any], directory: Path, seed: int, progress: Progress) -> None:
    """Write config, tokenizer and random weights into a new directory; the weights come last."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _write_tokenizer(config["vocab_size"], directory)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    todo = shapes(config)
    for name, shape in todo.items():
        progress("making random weights", len(tensors), len(todo))
        if len(shape) == 1:
            tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            tensors[name] = (torch.randn(shape, generator=generator) * STD).to(torch.bfloat16)
    save_file(tensors, directory / SINGLE_FILE, metadata={"format": "pt"})


def make_model(preset: str, directory: Path, progress: Progress) -> Path:
    """The directory of a preset's random model under `directory`, made if missing; its weights are deterministic."""
    path = directory / preset
    if not (path / SINGLE_FILE).is_file():
        partial = directory / f"{preset}.part"
        remove(partial)
        write_model(PRESETS[preset], partial, seed=0, progress=progress)
        remove(path)
        partial.rename(path)
    return path


def remove(path: Path) -> None:
    """Remove a file or a directory if it exists."""
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_tokenizer(vocab_size: int, directory: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = {piece: number for number, piece in enumerate(pieces(vocab_size))}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token=UNKNOWN, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (UNKNOWN, BEGIN, END)])
    tokenizer.save(str(directory / "tokenizer.json"))
    named = {"unk_token": UNKNOWN, "bos_token": BEGIN, "eos_token": END}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
