"""Adapters of PEFT: what is refused, by which name, before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.adapters import make_adapter
from support.checkpoints import make_checkpoint

from flover.config import EngineConfig
from flover.errors import ConfigError, ModelError
from flover.model.adapters import AdapterReader
from flover.model.describe import describe_model
from flover.model.shard import Shard
from flover.source.peft import find_adapter
from flover.source.peft_config import LoraSettings, read_lora_settings

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def reader(base: Path) -> AdapterReader:
    described = describe_model(EngineConfig(model=str(base), skip_tokenizer_init=True), Shard())
    return AdapterReader(described.family, described.config, max_rank=8)


def settings(**changes: Any) -> LoraSettings:
    return read_lora_settings(PLAIN | changes, "adapter_config.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; adapters of type LORA"),
        ({"use_dora": True}, "'use_dora' is True"),
        ({"bias": "all"}, "'bias' is 'all'"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"fan_in_fan_out": True}, "'fan_in_fan_out' is True"),
        ({"modules_to_save": ["lm_head"]}, r"'modules_to_save' is \['lm_head'\]"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication' is"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices' is"),
        ({"task_type": "SEQ_CLS"}, "'task_type' is 'SEQ_CLS'"),
        ({"of_next_year": 1}, "'of_next_year' is 1: adapters are not computed with it"),
        ({"r": 0}, "r must be an integer from 1 to"),
        ({"r": True}, "r must be an integer from 1 to"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number"),
        ({"lora_alpha": "8"}, "lora_alpha must be a finite number, got '8'"),
        ({"use_rslora": 1}, "use_rslora must be true or false"),
        ({"target_modules": [1]}, "target_modules must be a text or a list of texts"),
        ({"rank_pattern": [1]}, "rank_pattern must be an object"),
        ({"rank_pattern": {"(a+)+$": 2}}, r"rank_pattern has the key '\(a\+\)\+\$': names of modules are read"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj must be an integer"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern.q_proj must be a finite number"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=f"adapter_config.json: {said}"):
        settings(**changes)


def test_ranks_and_scales() -> None:
    """An entry of a pattern is a module's name, its end, or after ^ its whole name; the first one counts."""
    found = settings(
        rank_pattern={"^layers.0.q_proj": 2, "q_proj": 3}, alpha_pattern={"layers.1.q_proj": 6}, lora_alpha=12
    )
    cases = {"layers.0.q_proj": (2, 6.0), "layers.1.q_proj": (3, 2.0), "m.layers.0.q_proj": (3, 4.0), "xq_proj": (4, 3)}
    for module, (rank, scale) in cases.items():
        assert (found.rank_of(module), found.scale_of(module)) == (rank, scale)
    assert settings(use_rslora=True).scale_of("q_proj") == 8 / 2
    assert (found.is_target("a.q_proj"), found.is_target("q_proj"), found.is_target("aq_proj")) == (True, True, False)
    for text in ("all-linear", "(a+)+$"):  # a stranger's expression is not run
        assert settings(target_modules=text).is_target("anything")


Tensors = dict[str, Any]


def cut(tensors: Tensors) -> None:
    tensors[f"{QUERY}.lora_A.weight"] = np.ascontiguousarray(tensors[f"{QUERY}.lora_A.weight"][:, 1:])


def damage(tensors: Tensors) -> None:
    tensors[f"{QUERY}.lora_B.weight"][3, 1] = np.inf


def add(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = np.zeros((4, 4), dtype=np.float32)
        if name.endswith("lora_A.weight"):
            tensors[name.replace("lora_A", "lora_B")] = np.zeros((4, 4), dtype=np.float32)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut, r"lora_A.weight has the shape \[4, 47\], not \[4, 48\]"),
        (damage, "lora_B.weight holds a number that is not finite"),
        (lambda tensors: tensors.pop(f"{QUERY}.lora_A.weight"), "has one of two matrices of"),
        (add("base_model.model.model.embed_tokens.lora_embedding_A"), "has the tensor .*lora_embedding_A"),
        (add("base_model.model.lm_head.lora_A.weight"), "adapts 'lm_head', which is not a linear"),
        (add("base_model.model.model.norm.lora_A.weight"), "adapts 'model.norm', which is not a linear"),
        (add("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"), "adapts 'model.layers.9"),
        (add("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"), "which target_modules does not name"),
        (lambda tensors: tensors.clear(), "has no tensors"),
    ],
)
def test_tensors_that_are_refused(
    base: Path, reader: AdapterReader, tmp_path: Path, change: Callable[[Tensors], None], said: str
) -> None:
    folder = make_adapter(tmp_path / "a", base, targets=("q_proj", "v_proj"))
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=said):
        reader.read(find_adapter("a", str(folder)))


def test_matrices_keep_their_type(base: Path, reader: AdapterReader, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", base)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: one.astype(np.float16) for name, one in tensors.items()}, folder / "adapter_model.safetensors")
    (part,) = reader.read(find_adapter("a", str(folder)))["layers.0.out.weight"]
    for end, found in (("A", part.down), ("B", part.up)):
        assert found.dtype == np.float16
        wanted = tensors[f"{QUERY.replace('q_proj', 'o_proj')}.lora_{end}.weight"]
        np.testing.assert_array_equal(found, wanted.astype(np.float16))
    assert part.scale == 2.0


def test_files_that_are_refused(base: Path, reader: AdapterReader, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", base, rank=9)
    with pytest.raises(ModelError, match="has rank 9, more than --max-lora-rank 8"):
        reader.read(find_adapter("a", str(folder)))
    known = find_adapter("a", str(folder))
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN))
    with pytest.raises(ModelError, match="has changed since the adapter 'a' was loaded"):
        reader.read(known)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model.bin is a pickle"):
        find_adapter("a", str(folder))
    (folder / "adapter_config.json").unlink()
    for path, said in (
        (folder, "has no adapter_config.json"),
        (tmp_path / "a.gguf", "is a GGUF file"),
        (base / "x", "is not"),
    ):
        with pytest.raises(ModelError, match=said):
            find_adapter("a", str(path))
    with pytest.raises(ConfigError, match="--enable-lora excludes --tensor-parallel-size 2"):
        EngineConfig(enable_lora=True, tensor_parallel_size=2)
