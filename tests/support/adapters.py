"""Random LoRA adapters as PEFT saves them, and checkpoints that they are merged into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def make_adapter(
    directory: Path,
    checkpoint: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    alpha: float = 8.0,
    targets: tuple[str, ...] = ALL,
    ranks: dict[str, int] | None = None,
    **config: Any,
) -> Path:
    """Write an adapter of every module of `checkpoint` that ends with one of `targets`; `ranks` are other ranks of
    some of them, and `config` replaces what adapter_config.json says."""
    directory.mkdir(parents=True, exist_ok=True)
    generator, tensors = np.random.default_rng(seed), {}
    for name, weight in sorted(load_file(checkpoint / "model.safetensors").items()):
        module = name.removesuffix(".weight")
        if weight.ndim == 2 and module.endswith(targets):
            own = next((one for end, one in (ranks or {}).items() if module.endswith(end)), rank)
            out_size, in_size = weight.shape
            for end, shape in (("lora_A", (own, in_size)), ("lora_B", (out_size, own))):
                drawn = generator.standard_normal(shape, dtype=np.float32) / np.float32(shape[1] ** 0.5)
                tensors[f"base_model.model.{module}.{end}.weight"] = drawn
    save_file(tensors, directory / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none"}
    written |= {"target_modules": list(targets), "rank_pattern": ranks or {}, "fan_in_fan_out": False} | config
    (directory / "adapter_config.json").write_text(json.dumps(written))
    return directory


def merge_adapter(directory: Path, checkpoint: Path, adapter: Path, scales: dict[str, float]) -> Path:
    """Write `checkpoint` with scale * B @ A added to each weight that the adapter names; `scales` by the last part of a
    module's name, under "" that of all others."""
    shutil.copytree(checkpoint, directory)
    weights, tensors = load_file(checkpoint / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name, down in tensors.items():
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            scale = scales.get(module.rpartition(".")[2], scales[""])
            up = tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
            merged = weights[f"{module}.weight"].astype(np.float64) + scale * (up @ down.astype(np.float64))
            weights[f"{module}.weight"] = merged.astype(np.float32)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
