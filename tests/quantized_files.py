"""Quantized checkpoints made of the tiny ones of `checkpoints.py`, written in plain numpy as each format is defined.

Beside each lies the same model in float32, its matrices dequantized by the same definition: what transformers computes
with it is what Flover must answer. Nothing of Flover is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

Floats = npt.NDArray[np.float32]
Tensors = dict[str, torch.Tensor]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A way to store matrices: `config` is the checkpoint's `quantization_config`; `store` makes of a module's weight
    [out, in] its tensors, and the numbers that they stand for."""

    config: Mapping[str, Any]
    store: Callable[[Floats, np.random.Generator], tuple[Tensors, Floats]]
    kept: str
    """Flover's format of it."""
    size: float = 1.1
    """Bytes that it may take for one of the file."""
    tensors: tuple[str, ...] = LINEARS
    transposed: bool = False
    """The checkpoint has its matrices as [in, out]."""


def write_quantized(directory: Path, target: Path, way: Quantized) -> tuple[Path, Path]:
    """Store the checkpoint in `directory` quantized and dequantized, in two folders of `target`."""
    quantized, plain = target / "quantized", target / "plain"
    for path in (quantized, plain):
        shutil.copytree(directory, path)
    generator = np.random.default_rng(3)
    tensors = load_file(directory / "model.safetensors")
    dequantized = dict(tensors)
    for name in list(tensors):
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] not in way.tensors or module == name:
            continue
        weight = tensors.pop(name).float().numpy()
        parts, numbers = way.store(weight.T if way.transposed else weight, generator)
        numbers = numbers.T if way.transposed else numbers
        tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        dequantized[name] = torch.from_numpy(np.ascontiguousarray(numbers))
    save_file(tensors, quantized / "model.safetensors", {"format": "pt"})
    save_file(dequantized, plain / "model.safetensors", {"format": "pt"})
    edit_config(quantized, quantization_config=dict(way.config))
    return quantized, plain


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def _groups(weight: Floats, group: int, groups_of: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
    size = weight.shape[1] if group == -1 else group
    return np.arange(weight.shape[1]) // size if groups_of is None else groups_of


def integers(
    weight: Floats, groups: npt.NDArray[np.int64], bits: int, symmetric: bool, dtype: torch.dtype
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], torch.Tensor, Floats]:
    """Numbers without sign [out, in], zero points and scales [out, groups], and what they stand for."""
    count, levels = int(groups.max()) + 1, 2**bits - 1
    low = np.stack([weight[:, groups == g].min(1) for g in range(count)], 1)
    high = np.stack([weight[:, groups == g].max(1) for g in range(count)], 1)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    scales = torch.from_numpy((high - low) / levels).to(dtype)
    wide = scales.float().numpy()
    zeros = np.full(low.shape, 2 ** (bits - 1)) if symmetric else np.rint(-low / wide)
    zeros = np.clip(zeros, 1, levels).astype(np.int64)
    q = np.clip(np.rint(weight / wide[:, groups]) + zeros[:, groups], 0, levels).astype(np.int64)
    return q, zeros, scales, ((q - zeros[:, groups]) * wide[:, groups].astype(np.float64)).astype(np.float32)


def packed(numbers: npt.NDArray[np.int64], bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
    """Numbers [rows, n] in words of 32 bits along the second axis, the first one (or the first of `order`) lowest."""
    together = 32 // bits
    words = numbers.reshape(len(numbers), -1, together)[..., list(order or range(together))]
    shifted = words << (bits * np.arange(together))
    return torch.from_numpy(shifted.sum(-1).astype(np.uint32).view(np.int32))


def gptq(
    bits: int = 4,
    group: int = 32,
    *,
    symmetric: bool = True,
    act_order: bool = False,
    version: str = "gptq",
    dtype: torch.dtype = torch.float16,
    **rest: Any,
) -> Quantized:
    def store(weight: Floats, generator: np.random.Generator) -> tuple[Tensors, Floats]:
        groups = _groups(weight, group)
        if act_order:  # the same for all matrices of the same inputs, as they have the same activations
            groups = np.random.default_rng(weight.shape[1]).permutation(groups)
        q, zeros, scales, numbers = integers(weight, groups, bits, symmetric, dtype)
        stored = zeros - (version == "gptq")
        return {
            "qweight": packed(q, bits).T,
            "qzeros": packed(stored.T, bits),
            "scales": scales.T,
            "g_idx": torch.from_numpy(groups.astype(np.int32)),
        }, numbers

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "sym": symmetric,
        "desc_act": act_order,
        "checkpoint_format": version,
        "damp_percent": 0.1,
        "true_sequential": True,
    }
    return Quantized(config, store, **rest)


def awq(group: int = 32, **rest: Any) -> Quantized:
    def store(weight: Floats, generator: np.random.Generator) -> tuple[Tensors, Floats]:
        q, zeros, scales, numbers = integers(weight, _groups(weight, group), 4, False, torch.float16)
        return {
            "qweight": packed(q.T, 4, AWQ_ORDER),
            "qzeros": packed(zeros.T, 4, AWQ_ORDER),
            "scales": scales.T,
        }, numbers

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return Quantized(config | {"modules_to_not_convert": ["lm_head"]}, store, **rest)


def _compressed(format_: str, weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "config_groups": {"group_0": {**group, "output_activations": None}},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
    }


_BY_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


def pack_quantized(
    bits: int = 4,
    group: int = 32,
    *,
    symmetric: bool = True,
    act_order: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    **rest: Any,
) -> Quantized:
    def store(weight: Floats, generator: np.random.Generator) -> tuple[Tensors, Floats]:
        groups = _groups(weight, group)
        if act_order:
            groups = np.random.default_rng(weight.shape[1]).permutation(groups)
        q, zeros, scales, numbers = integers(weight, groups, bits, symmetric, dtype)
        parts = {
            "weight_packed": packed(q, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            parts["weight_zero_point"] = packed(zeros.T, bits).T
        if act_order:
            parts["weight_g_idx"] = torch.from_numpy(groups.astype(np.int32))
        return parts, numbers

    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "actorder": "group" if act_order else None}
    weights |= {"strategy": "channel" if group == -1 else "group", "group_size": None if group == -1 else group}
    return Quantized(_compressed("pack-quantized", weights, None), store, **rest)


def int_quantized(dtype: torch.dtype = torch.bfloat16, **rest: Any) -> Quantized:
    def store(weight: Floats, generator: np.random.Generator) -> tuple[Tensors, Floats]:
        q, _, scales, numbers = integers(weight, _groups(weight, -1), 8, True, dtype)
        return {"weight": torch.from_numpy((q - 128).astype(np.int8)), "weight_scale": scales}, numbers

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    return Quantized(_compressed("int-quantized", weights, _BY_TOKEN), store, **rest)


def mxfp4(**rest: Any) -> Quantized:
    def store(weight: Floats, generator: np.random.Generator) -> tuple[Tensors, Floats]:
        values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
        blocks = weight.reshape(len(weight), -1, 32)
        exponents = np.floor(np.log2(np.abs(blocks).max(2, keepdims=True))) - 2
        scaled = blocks / 2**exponents
        index = np.abs(np.abs(scaled)[..., None] - values).argmin(-1)
        codes = (index | (scaled < 0) << 3).reshape(weight.shape).astype(np.uint8)
        numbers = np.where(scaled < 0, -values[index], values[index]) * 2**exponents
        parts = {
            "weight_packed": torch.from_numpy(codes[:, 0::2] | codes[:, 1::2] << 4),
            "weight_scale": torch.from_numpy((exponents[..., 0] + 127).astype(np.uint8)),
        }
        return parts, numbers.reshape(weight.shape).astype(np.float32)

    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32}
    return Quantized(_compressed("mxfp4-pack-quantized", weights, None), store, **rest)


def fp8(
    shape: tuple[int, int] | str,
    *,
    compressed: bool = False,
    name: str = "weight_scale",
    dtype: torch.dtype = torch.float32,
    **rest: Any,
) -> Quantized:
    """`shape`: of the blocks that share a scale, or "channel" or "tensor"."""

    def store(weight: Floats, generator: np.random.Generator) -> tuple[Tensors, Floats]:
        rows, columns = weight.shape
        high, wide = {"channel": (1, columns), "tensor": (rows, columns)}.get(shape, shape)  # type: ignore[call-overload]
        blocks = [
            [np.abs(weight[i : i + high, j : j + wide]).max() for j in range(0, columns, wide)]
            for i in range(0, rows, high)
        ]
        scales = (torch.tensor(np.array(blocks, dtype=np.float32)) / 448).to(dtype)
        each = np.repeat(np.repeat(scales.float().numpy(), high, 0)[:rows], wide, 1)[:, :columns]
        numbers = torch.from_numpy(np.clip(weight / each, -448, 448)).to(torch.float8_e4m3fn)
        parts = {"weight": numbers, name: scales.reshape(()) if shape == "tensor" else scales}
        if shape == "tensor":
            parts["input_scale"] = torch.tensor(0.5)
        return parts, numbers.float().numpy() * each

    if compressed:
        weights: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True}
        weights |= {"strategy": shape} if isinstance(shape, str) else {"strategy": "block", "block_structure": shape}
        config = _compressed("float-quantized", weights, {**_BY_TOKEN, "type": "float"})
    else:
        config = {"quant_method": "fp8", "activation_scheme": "static" if shape == "tensor" else "dynamic"}
        config |= {"fmt": "e4m3", "weight_block_size": None if isinstance(shape, str) else list(shape)}
    return Quantized(config, store, **rest)


WIDE = {
    "vocab_size": 304,
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_dim": 64,
    "attention_bias": True,
    "mlp_bias": True,
}
BFLOAT16, FLOAT16, FLOAT32 = torch.bfloat16, torch.float16, torch.float32

WAYS: dict[str, Quantized] = {
    "fp8 blocks": fp8((128, 128), name="weight_scale_inv", kept="fp8_e4m3"),
    "fp8 odd blocks": fp8((96, 192), name="weight_scale_inv", dtype=BFLOAT16, kept="fp8_e4m3"),
    "fp8 tensor": fp8("tensor", kept="fp8_e4m3"),
    "float-quantized channel": fp8("channel", compressed=True, dtype=BFLOAT16, kept="fp8_e4m3"),
    "float-quantized block": fp8((128, 128), compressed=True, dtype=BFLOAT16, kept="fp8_e4m3"),
    "gptq 32": gptq(4, 32, kept="int4_g32"),
    "gptq 64 asymmetric": gptq(4, 64, symmetric=False, kept="int4_g64"),
    "gptq 128 asymmetric": gptq(4, 128, symmetric=False, kept="int4_g128"),
    "gptq_v2 128 asymmetric": gptq(
        4, 128, symmetric=False, version="gptq_v2", kept="int4_g128", tensors=(*LINEARS, "lm_head")
    ),
    "gptq output": gptq(4, -1, dtype=BFLOAT16, kept="int4_g128"),
    "gptq act-order": gptq(4, 128, symmetric=False, act_order=True, kept="int4_g128"),
    "gptq 8 bits": gptq(8, 128, kept="int8_g64"),
    "gptq 8 bits act-order": gptq(8, 32, act_order=True, kept="int8_g32"),
    "awq 32": awq(32, kept="int4_g32"),
    "awq 128": awq(128, kept="int4_g128"),
    "pack-quantized 128": pack_quantized(4, 128, kept="int4_g128"),
    "pack-quantized asymmetric": pack_quantized(4, 64, symmetric=False, kept="int4_g64"),
    "pack-quantized act-order": pack_quantized(4, 128, act_order=True, kept="int4_g128"),
    "pack-quantized output": pack_quantized(4, -1, dtype=FLOAT16, kept="int4_g128"),
    "pack-quantized 8 bits": pack_quantized(8, -1, kept="int8_g64"),
    "mxfp4": mxfp4(kept="mxfp4"),
    "int-quantized": int_quantized(kept="int8_g64"),
    "int-quantized float32 scales": int_quantized(FLOAT32, kept="int8_g64"),
}
"""Every way that is read; the checkpoint has the sizes of `WIDE`."""
