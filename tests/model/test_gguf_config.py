"""What a GGUF file's metadata become as a config.json, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf.constants import MODEL_ARCH_NAMES

from flover.errors import ModelError
from flover.model.family_rows import FAMILIES
from flover.model.hf_config import read_config
from flover.source import TensorInfo
from flover.source.gguf_architectures import ARCHITECTURES
from flover.source.gguf_config import EMBEDDING, HEAD, config_of
from flover.source.gguf_file import GgufFile

SIZES = {
    "context_length": 512,
    "embedding_length": 48,
    "block_count": 4,
    "feed_forward_length": 80,
    "attention.head_count": 4,
    "attention.head_count_kv": 4,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
OTHERS = {"AquilaForCausalLM", "CodeGenForCausalLM", "CwmForCausalLM", "GPTJForCausalLM", "GPTNeoForCausalLM"}
OTHERS |= {"FlexOlmoForCausalLM", "VaultGemmaForCausalLM", "HeliumForCausalLM", "InternLMForCausalLM", "OPTForCausalLM"}
"""Families that llama.cpp does not convert."""
UNDER_ANOTHER_ROW = {"BaiChuanForCausalLM", "ExaoneForCausalLM", "GraniteMoeForCausalLM", "InternLM2ForCausalLM"}
UNDER_ANOTHER_ROW |= {"GraniteMoeHybridForCausalLM", "InternLM3ForCausalLM", "MiniCPMForCausalLM", "XverseForCausalLM"}


def config(architecture: str, vocab_size: int = 300, **metadata: Any) -> dict[str, Any]:
    """`metadata` are the architecture's keys; those that are None are left out."""
    own = {key: value for key, value in (SIZES | metadata).items() if value is not None}
    file = GgufFile(
        Path("m.gguf"), {"general.architecture": architecture, **{f"{architecture}.{k}": v for k, v in own.items()}}, []
    )
    infos = [TensorInfo(name, "F32", (vocab_size, 48), 0, file.path) for name in (EMBEDDING, HEAD)]
    return config_of(file, {info.name: info for info in infos}, lambda info: [])


def test_every_family_that_llama_cpp_converts_is_read() -> None:
    read = {row.architecture for row in ARCHITECTURES.values()}
    read |= {other.architecture.architecture for row in ARCHITECTURES.values() for other in row.variants}
    assert FAMILIES.keys() - read == OTHERS | UNDER_ANOTHER_ROW
    assert ARCHITECTURES.keys() <= set(MODEL_ARCH_NAMES.values())


SCALES = {"embedding_scale": 12.0, "residual_scale": 0.2, "logit_scale": 9.0}


@pytest.mark.parametrize(
    ("architecture", "metadata", "message"),
    [
        ("opt", {}, "general.architecture 'opt' is not supported; supported: llama"),
        ("minicpm", SCALES | {"residual_scale": None}, "residual_scale is missing: convert the model again"),
        ("granite", SCALES | {"rope.scaling.finetuned": False}, "rope.scaling.finetuned is False"),
        ("baichuan", {"vocab_size": 125696}, "125696 tokens are those of a model whose output projection is normal"),
        (
            "baichuan",
            {"vocab_size": 125696, "block_count": 40},
            "125696 tokens are those of a model whose output projection is normal",
        ),
        ("mistral3", {"attention.temperature_length": 8}, "attention.temperature_length is 8"),
        ("olmo2", {"rope.freq_base_swa": 1e4}, "rope.freq_base_swa is 10000.0"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(architecture: str, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config(architecture, **metadata)


def test_baichuan_with_40_layers_has_alibi() -> None:
    _, small = read_config(config("baichuan", vocab_size=64000))
    _, large = read_config(config("baichuan", 64000, block_count=40, **{"rope.dimension_count": 12}))
    assert small.ropes and not small.alibi_slopes
    assert not large.ropes and large.alibi_slopes == (0.25, 0.0625, 0.015625, 0.00390625)


def test_what_the_metadata_leave_out_is_llama_cpps() -> None:
    """The size of a head, and the factor on scores; the base of layers with a window is that of the others."""
    _, granite = read_config(config("granite", **SCALES))
    assert [layer.attention_scale for layer in granite.layers] == [12**-0.5] * 4
    assert read_config(config("glm4"))[1].head_dim == 12
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}
    window = {"attention.sliding_window": 16, "attention.sliding_window_pattern": [True, True, False, True]}
    _, olmo = read_config(
        config("olmo2", **yarn, **window, **{"rope.freq_base": 5e5, "rope.scaling.yarn_beta_fast": 24.0})
    )
    ropes = [layer.rope for layer in olmo.layers]
    assert [(rope.scaling, rope.theta, rope.beta_fast) for rope in ropes if rope is not None] == [
        *[("default", 5e5, 32.0)] * 2,
        ("yarn", 5e5, 24.0),
        ("default", 5e5, 32.0),
    ]
    assert [layer.window for layer in olmo.layers] == [16, 16, None, 16]
