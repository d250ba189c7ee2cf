"""Quantized checkpoints that are not computed, or damaged: an error that names what it found, and no crash."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from quantized_files import WAYS, WIDE, Tensors, edit_config, edit_tensors, write_quantized
from support.checkpoints import make_checkpoint

from flover.config import EngineConfig
from flover.errors import ModelError
from flover.model.describe import describe_model
from flover.model.shard import Shard
from model.driver import load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model", **WIDE)


def compressed(change: Callable[[dict[str, Any]], object], way: str = "pack-quantized 128") -> dict[str, Any]:
    config = {**WAYS[way].config}
    group = config["config_groups"]["group_0"]
    config["config_groups"] = {"group_0": {**group, "weights": {**group["weights"]}}}
    change(config)
    return config


def of_group(name: str, value: Any) -> dict[str, Any]:
    return compressed(lambda config: config["config_groups"]["group_0"].update({name: value}))


def of_weights(name: str, value: Any, way: str = "pack-quantized 128") -> dict[str, Any]:
    return compressed(lambda config: config["config_groups"]["group_0"]["weights"].update({name: value}), way)


METHODS = (
    "bitsandbytes", "hqq", "eetq", "aqlm", "quanto", "torchao", "modelopt", "fbgemm_fp8", "bitnet", "vptq", "spqr",
    "higgs", "auto-round", "quark", "exl2",
)  # fmt: skip
GPTQ, AWQ = WAYS["gptq 128 asymmetric"].config, WAYS["awq 128"].config
FP8 = WAYS["fp8 blocks"].config
REFUSED: dict[str, tuple[Any, str]] = {
    **{
        f"method {method}": ({"quant_method": method}, rf"quant_method is .*{method}.*supported: gptq, awq")
        for method in METHODS
        if isinstance(method, str)
    },
    "no object": ("gptq", "quantization_config must be an object"),
    "no method": ({"bits": 4}, "quant_method is None"),
    "method of another type": ({"quant_method": ["gptq"]}, "quant_method is"),
    "3 bits": ({**GPTQ, "bits": 3}, r"bits is 3.*supported: 4, 8"),
    "bits that are true": ({**GPTQ, "bits": True}, "bits is True"),
    "marlin": ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
    "overrides": ({**GPTQ, "dynamic": {"+:.*up": {"bits": 8}}}, "dynamic is"),
    "group of 0": ({**GPTQ, "group_size": 0}, "group_size must be -1 or an integer from 1 to"),
    "group of text": ({**GPTQ, "group_size": "128"}, "group_size must be -1 or an integer"),
    "huge group": ({**GPTQ, "group_size": 2**60}, "group_size must be -1 or an integer"),
    "gemv": ({**AWQ, "version": "gemv"}, "version is 'gemv'"),
    "awq of 8 bits": ({**AWQ, "bits": 8}, "bits is 8"),
    "e5m2": ({**FP8, "fmt": "e5m2"}, "fmt is 'e5m2'"),
    "three sizes": ({**FP8, "weight_block_size": [128, 128, 128]}, "weight_block_size must be a list of two"),
    "negative size": ({**FP8, "weight_block_size": [128, -1]}, "weight_block_size must be a list of two"),
    "nvfp4": (compressed(lambda config: config.update(format="nvfp4-pack-quantized")), "format is 'nvfp4"),
    "marlin-24": (compressed(lambda config: config.update(format="marlin-24")), "format is 'marlin-24'"),
    "kv cache": (compressed(lambda config: config.update(kv_cache_scheme={"num_bits": 8})), "kv_cache_scheme is"),
    "sparse": (compressed(lambda config: config.update(sparsity_config={"format": "sparse-24-bitmask"})), "sparse-24"),
    "rotated": (compressed(lambda config: config.update(transform_config={"config_groups": {}})), "transform_config"),
    "two groups": (compressed(lambda config: config["config_groups"].update(more={})), "config_groups is"),
    "no group": (compressed(lambda config: config.update(config_groups=None)), "config_groups is None"),
    "activations of 4 bits": (of_group("input_activations", {"num_bits": 4}), "num_bits is 4"),
    "quantized outputs": (of_group("output_activations", {"num_bits": 8}), "output_activations is"),
    "weights of 2 bits": (of_weights("num_bits", 2), "num_bits is 2"),
    "4 bits a byte": (of_weights("num_bits", 4, "int-quantized"), "must be pack-quantized"),
    "unknown order": (of_weights("actorder", "random"), "actorder is 'random'"),
    "one scale": (of_weights("strategy", "tensor"), "strategy is 'tensor'"),
    "weights of no kind": (of_weights("type", "posit"), "type is 'posit'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_name(name: str, checkpoint: Path, tmp_path: Path) -> None:
    config, message = REFUSED[name]
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    edit_config(tmp_path, quantization_config=config)
    with pytest.raises(ModelError, match=message) as raised:
        load(tmp_path)
    assert "config.json: quantization_config" in str(raised.value)


UP, Q = "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"
Change = Callable[[torch.Tensor], torch.Tensor]


def at_first(value: float) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = value
        return tensor

    return change


def other_group(groups: torch.Tensor) -> torch.Tensor:
    return at_first(1 - int(groups[0]))(groups)


def none_of_fp8(numbers: torch.Tensor) -> torch.Tensor:
    return at_first(127)(numbers.view(torch.uint8)).view(numbers.dtype)


ASYMMETRIC, ACT, PACKED, FP8_BLOCKS = "gptq 64 asymmetric", "gptq act-order", "pack-quantized 128", "fp8 blocks"
DAMAGED: dict[str, tuple[str, str, Change | None, str]] = {
    "no scales": (ASYMMETRIC, f"{UP}.scales", None, "up_proj.qweight has no scales beside it"),
    "no zeros": ("awq 128", f"{UP}.qzeros", None, "up_proj.qweight has no qzeros beside it"),
    "no numbers": ("awq 128", f"{UP}.qweight", None, "missing: .*layers.1.mlp.up_proj.weight"),
    "narrow scales": (ASYMMETRIC, f"{UP}.scales", lambda t: t[:, 1:], r"up_proj.scales .*\[4, 511\].*\[4, 512\]"),
    "fewer groups": (ASYMMETRIC, f"{UP}.scales", lambda t: t[:2], r"up_proj.scales .*\[2, 512\].*\[4, 512\]"),
    "turned zeros": (ASYMMETRIC, f"{UP}.qzeros", torch.Tensor.t, r"up_proj.qzeros has shape \[64, 4\]"),
    "float zeros": (ASYMMETRIC, f"{UP}.qzeros", torch.Tensor.float, "up_proj.qzeros has type F32"),
    "short": (ASYMMETRIC, f"{UP}.qweight", lambda t: t[:1], "up_proj.qweight has 8 inputs, of which 64"),
    "one size": (ASYMMETRIC, f"{UP}.qweight", lambda t: t[0], r"up_proj.qweight has shape \[512\]"),
    "float numbers": (ASYMMETRIC, f"{UP}.qweight", torch.Tensor.float, "up_proj.qweight has type F32"),
    "uneven groups": (ACT, f"{UP}.g_idx", other_group, "up_proj.g_idx does not put 128 inputs into each of 2 groups"),
    "no such group": (ACT, f"{UP}.g_idx", at_first(2**31 - 1), "up_proj.g_idx does not put"),
    "negative group": (ACT, f"{UP}.g_idx", at_first(-1), "up_proj.g_idx does not put"),
    "two orders": (ACT, f"{Q}.g_idx", lambda t: t.flip(0), r"another order \(g_idx\) than those of matrices"),
    "zeros of 8 bits": ("gptq 8 bits", f"{UP}.qzeros", at_first(0), "up_proj.qzeros has zero points other than 128"),
    "infinite scale": (PACKED, f"{UP}.weight_scale", at_first(float("inf")), "up_proj.weight: .*not finite"),
    "fine scale": (
        PACKED,
        f"{UP}.weight_scale",
        lambda t: t.float() * 1.0001,
        "weight_scale has scales that need more",
    ),
    "integer scale": (PACKED, f"{UP}.weight_scale", torch.Tensor.int, "weight_scale has type I32, but F16 or"),
    "no number": (FP8_BLOCKS, f"{UP}.weight", none_of_fp8, "up_proj.weight: .*not finite"),
    "other blocks": (FP8_BLOCKS, f"{UP}.weight_scale_inv", lambda t: t[:, :1], r"scale_inv .*\[4, 1\].*\[4, 2\]"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_tensors_that_do_not_fit_are_named(name: str, checkpoint: Path, tmp_path: Path) -> None:
    way, tensor, change, message = DAMAGED[name]
    quantized, _ = write_quantized(checkpoint, tmp_path, WAYS[way])

    def damage(tensors: Tensors) -> Tensors:
        found = tensors.pop(tensor)
        return tensors if change is None else tensors | {tensor: change(found).contiguous()}

    edit_tensors(quantized, damage)
    with pytest.raises(ModelError, match=message):
        load(quantized)


def test_any_number_of_the_config_is_an_error_or_a_model(checkpoint: Path, tmp_path: Path) -> None:
    """Values of the config replaced by others: an error that names a file, or the same shapes; never a crash."""
    rng = random.Random(0)
    values: tuple[Any, ...] = (0, -1, 1, 3, 7, 48, 2**31, 2**70, 0.5, float("nan"), "", "x", [], {}, [128], True, None)
    refused = 0
    for way in ("gptq act-order", "awq 32", "fp8 odd blocks", "pack-quantized asymmetric"):
        quantized, _ = write_quantized(checkpoint, tmp_path / way, WAYS[way])
        for _ in range(25):
            config = (
                compressed(lambda config: None, way) if "config_groups" in WAYS[way].config else {**WAYS[way].config}
            )
            groups = config.get("config_groups")
            place = rng.choice([config, groups["group_0"], groups["group_0"]["weights"]]) if groups else config
            place[rng.choice(list(place))] = rng.choice(values)
            edit_config(quantized, quantization_config=config)
            try:
                describe_model(EngineConfig(model=str(quantized)), Shard())
            except ModelError as error:
                refused += 1
                assert str(quantized) in str(error)
    assert refused > 30
