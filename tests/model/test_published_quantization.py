"""`quantization_config` as the tools that publish quantized checkpoints write it: each is computed, or refused by name.

The blocks are those of published config.json files, lists of modules shortened. For each that is computed, a tiny
checkpoint with the tensors of that form is loaded under the published block.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_files import WAYS, WIDE, edit_config, write_quantized
from support.checkpoints import make_checkpoint

from flover.errors import ModelError
from flover.model.load import LoadedModel
from flover.source.quantization import read_scheme
from model.driver import load

Block = dict[str, Any]


def compressed(weights: Block, activations: Block | None, form: str, **more: Any) -> Block:
    """As llm-compressor writes it; `weights` and `activations` are what differs from its defaults."""
    usual = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": None,
        "num_bits": 8,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "channel",
        "symmetric": True,
        "type": "int",
    }
    group = {
        "input_activations": None if activations is None else {**usual, "observer": None, **activations},
        "output_activations": None,
        "targets": ["Linear"],
        "weights": {**usual, **weights},
    }
    return {
        "config_groups": {"group_0": group},
        "format": form,
        "global_compression_ratio": 1.8,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    } | more


W4, TOKEN, FLOAT = (
    {"num_bits": 4, "group_size": 128, "strategy": "group"},
    {"dynamic": True, "strategy": "token"},
    "float",
)
DENSE = {"format": "dense", "global_sparsity": 0.13, "ignore": [], "sparsity_structure": "unstructured", "targets": []}
GPTQ = {"bits": 4, "damp_percent": 0.01, "desc_act": False, "group_size": 128, "quant_method": "gptq", "sym": True}
AWQ = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True}
DEEPSEEK = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}

COMPUTED: dict[str, tuple[Block, str]] = {
    "AutoGPTQ": (
        {**GPTQ, "model_file_base_name": "model", "model_name_or_path": None, "static_groups": False}
        | {"true_sequential": True, "is_marlin_format": False},
        "gptq 128 asymmetric",
    ),
    "AutoGPTQ, act-order": ({**GPTQ, "desc_act": True, "true_sequential": True}, "gptq act-order"),
    "AutoGPTQ by optimum": (
        {**GPTQ, "batch_size": 1, "block_name_to_quantize": None, "cache_block_outputs": True, "dataset": None}
        | {"exllama_config": {"version": 1}, "max_input_length": None, "module_name_preceding_first_block": None}
        | {"modules_in_block_to_quantize": None, "pad_token_id": None, "tokenizer": None, "use_cuda_fp16": False},
        "gptq 128 asymmetric",
    ),
    "AutoGPTQ, 8 bits": ({**GPTQ, "bits": 8}, "gptq 8 bits"),
    "GPTQModel": (
        {
            **GPTQ,
            "checkpoint_format": "gptq",
            "dynamic": None,
            "group_size": 32,
            "lm_head": False,
            "pack_dtype": "int32",
        }
        | {
            "meta": {
                "damp_auto_increment": 0.0025,
                "mse": 0.0,
                "quantizer": ["gptqmodel:1.8.1"],
                "static_groups": False,
            }
        },
        "gptq 32",
    ),
    "GPTQModel, gptq_v2": ({**GPTQ, "checkpoint_format": "gptq_v2", "dynamic": {}}, "gptq_v2 128 asymmetric"),
    "AutoAWQ": ({**AWQ, "modules_to_not_convert": None}, "awq 128"),
    "AutoAWQ before it was in transformers": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "version": "GEMM", "zero_point": True},
        "awq 128",
    ),
    "AutoAWQ of a mixture": ({**AWQ, "modules_to_not_convert": ["gate"], "ignore": ["lm_head"]}, "awq 128"),
    "W4A16": (compressed(W4, None, "pack-quantized"), "pack-quantized 128"),
    "W4A16, act-order": (compressed({**W4, "actorder": "weight"}, None, "pack-quantized"), "pack-quantized 128"),
    "W4A16, groups in order": (
        compressed({**W4, "actorder": "group"}, None, "pack-quantized"),
        "pack-quantized act-order",
    ),
    "W4A16, asymmetric": (
        compressed({**W4, "group_size": 64, "symmetric": False}, None, "pack-quantized"),
        "pack-quantized asymmetric",
    ),
    "W8A16": (compressed({}, None, "pack-quantized", sparsity_config=DENSE), "pack-quantized 8 bits"),
    "W8A8": (compressed({"observer": "mse"}, TOKEN, "int-quantized", version="0.11.0"), "int-quantized"),
    "W8A8 in its first form": (
        {**compressed({}, TOKEN, "int-quantized"), "quantization_status": "frozen", "sparsity_config": {}},
        "int-quantized",
    ),
    "FP8": (
        compressed({"type": FLOAT, "strategy": "tensor"}, {"type": FLOAT, "strategy": "tensor"}, "naive-quantized"),
        "float-quantized channel",
    ),
    "FP8-dynamic": (
        compressed({"type": FLOAT}, {**TOKEN, "type": FLOAT}, "float-quantized", transform_config={}),
        "float-quantized channel",
    ),
    "FP8-block": (
        compressed(
            {"type": FLOAT, "strategy": "block", "block_structure": [128, 128]},
            {**TOKEN, "type": FLOAT, "strategy": "group", "group_size": 128},
            "float-quantized",
        ),
        "float-quantized block",
    ),
    "DeepSeek-V3": (DEEPSEEK, "fp8 blocks"),
    "DeepSeek-V3.1": ({**DEEPSEEK, "scale_fmt": "ue8m0"}, "fp8 blocks"),
    "Qwen3-FP8": ({**DEEPSEEK, "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"]}, "fp8 blocks"),
    "AutoFP8": ({"activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8"}, "fp8 tensor"),
}
"""And the way of `quantized_files.py` whose tensors it has."""

FBGEMM = {"activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"], "quant_method": "fbgemm_fp8"}
NVFP4 = {"num_bits": 4, "type": FLOAT, "strategy": "tensor_group", "group_size": 16}
BITSANDBYTES = {"load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4", "llm_int8_threshold": 6.0}
CACHE = {"num_bits": 8, "type": FLOAT, "strategy": "tensor", "dynamic": False, "symmetric": True}
MODELOPT = {"producer": {"name": "modelopt", "version": "0.29.0"}, "ignore": ["lm_head"], "quant_method": "modelopt"}
METHOD = "quant_method is {!r}, which is not supported"
REFUSED: dict[str, tuple[Block, str]] = {
    "bitsandbytes": ({**BITSANDBYTES, "quant_method": "bitsandbytes"}, METHOD.format("bitsandbytes")),
    "bitsandbytes before it was named": (BITSANDBYTES, METHOD.format(None)),
    "MLX": ({"group_size": 64, "bits": 4}, METHOD.format(None)),
    "HQQ": (
        {"quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}, "quant_method": "hqq"}
        | {"skip_modules": ["lm_head"]},
        METHOD.format("hqq"),
    ),
    "AQLM": (
        {"in_group_size": 8, "nbits_per_codebook": 16, "num_codebooks": 1, "out_group_size": 1, "quant_method": "aqlm"},
        METHOD.format("aqlm"),
    ),
    "EXL2": (
        {"bits": 4.0, "calibration": {"rows": 115}, "head_bits": 6, "quant_method": "exl2", "version": "0.2.1"},
        METHOD.format("exl2"),
    ),
    "EXL3": ({"bits": 3.84, "head_bits": 6, "quant_method": "exl3", "version": "0.0.20"}, METHOD.format("exl3")),
    "quanto": ({"activations": None, "quant_method": "quanto", "weights": "int8"}, METHOD.format("quanto")),
    "torchao": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_version": 1}}},
        METHOD.format("torchao"),
    ),
    "FBGEMM": (FBGEMM, METHOD.format("fbgemm_fp8")),
    "ModelOpt FP8": ({**MODELOPT, "quant_algo": "FP8"}, METHOD.format("modelopt")),
    "ModelOpt NVFP4": ({**MODELOPT, "quant_algo": "NVFP4"}, METHOD.format("modelopt")),
    "AutoRound": (
        {**GPTQ, "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "autoround_version": "0.5.1"},
        METHOD.format("auto-round"),
    ),
    "NVFP4": (
        compressed(NVFP4, {**NVFP4, "dynamic": "local"}, "nvfp4-pack-quantized"),
        "input_activations.num_bits is 4, which is not supported",
    ),
    "NVFP4A16": (compressed(NVFP4, None, "nvfp4-pack-quantized"), "format is 'nvfp4-pack-quantized'"),
    "two precisions": (
        {**compressed(W4, None, "mixed-precision"), "config_groups": {"group_0": {}, "group_1": {}}},
        "config_groups is",
    ),
    "2 of 4": (
        compressed(W4, None, "marlin-24", sparsity_config={**DENSE, "format": "sparse-24-bitmask"}),
        "sparsity_config.format is 'sparse-24-bitmask'",
    ),
    "FP8 with its cache": (
        compressed({"type": FLOAT}, {**TOKEN, "type": FLOAT}, "float-quantized", kv_cache_scheme=CACHE),
        "kv_cache_scheme is",
    ),
    "GPTQ, Marlin": ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
    "GPTQ, Marlin before": ({**GPTQ, "is_marlin_format": True}, "is_marlin_format is True"),
    "GPTQModel, layers of their own": ({**GPTQ, "dynamic": {"-:.*down": {}}}, "dynamic is"),
    "GPTQ, 3 bits": ({**GPTQ, "bits": 3}, "bits is 3, which is not supported (supported: 4, 8)"),
    "AWQ, GEMV": ({**AWQ, "version": "gemv"}, "version is 'gemv'"),
    "DeepSeek-V4": ({**DEEPSEEK, "scale_fmt": "ue8m0", "expert_dtype": "fp4"}, "expert_dtype is 'fp4'"),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, LoadedModel]]:
    """A tiny checkpoint by way, and the same with its numbers in float32 loaded."""
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("model") / "model", **WIDE)

    @functools.cache
    def store(way: str) -> tuple[Path, LoadedModel]:
        quantized, plain = write_quantized(checkpoint, tmp_path_factory.mktemp("way"), WAYS[way])
        return quantized, load(plain)

    return store


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_published_is_computed(
    name: str, stored: Callable[[str], tuple[Path, LoadedModel]], tmp_path: Path
) -> None:
    block, way = COMPUTED[name]
    directory, plain = stored(way)
    copy = Path(shutil.copytree(directory, tmp_path / "model"))
    edit_config(copy, quantization_config=block)
    loaded = load(copy)
    assert loaded.format == WAYS[way].kept
    theirs = plain.decoder.weights.matrices
    for matrix, weight in loaded.decoder.weights.matrices.items():
        assert np.array_equal(weight.unpack(), theirs[matrix].unpack()), matrix


def test_gpt_oss() -> None:
    """Its tensors are experts': `test_experts.py` computes them."""
    modules = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    block = {"modules_to_not_convert": modules, "quant_method": "mxfp4"}
    assert str(read_scheme({"quantization_config": block}, "config.json")) == "MXFP4"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_published_and_not_computed_is_refused_by_name(name: str) -> None:
    block, message = REFUSED[name]
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        read_scheme({"quantization_config": block}, "config.json")
    assert str(caught.value).startswith("config.json: quantization_config.") and len(str(caught.value)) < 600
