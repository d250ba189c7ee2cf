"""Loading fills every weight exactly once, or says what is wrong with which file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.checkpoints import FAMILIES, make_checkpoint, random_prompt

from flover.config import BUNDLED_MODEL, EngineConfig
from flover.errors import ConfigError, ModelError
from flover.model.config import parameter_shapes
from flover.model.describe import kv_dtype_of
from flover.model.formats import has_more_bits
from flover.model.load import LoadedModel, load_model
from flover.model.locate import locate_model
from flover.ops import HostArray
from model.driver import OPS, load, whole_logits

PROMPT = random_prompt(1, 12)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a one-file checkpoint; `__` in a name stands for a dot."""
    tensors = load_file(path / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, path / "model.safetensors")


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def failure(path: Path, **settings: Any) -> str:
    """What loading says when it refuses."""
    with pytest.raises(ModelError) as caught:
        load(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_hold_the_same_model_as_one_file(family: str, tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path / "whole", family)
    sharded = make_checkpoint(tmp_path / "sharded", family, shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    ours, theirs = plain_weights(load(sharded)), plain_weights(load(whole))
    assert ours.keys() == theirs.keys() == parameter_shapes(load(whole).config).keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def plain_weights(loaded: LoadedModel) -> dict[str, HostArray]:
    """All weights, matrices as the kernels see them."""
    weights = loaded.decoder.weights
    return {name: matrix.unpack() for name, matrix in weights.matrices.items()} | dict(weights.vectors)


def test_number_of_parameters_counts_what_is_loaded(path: Path) -> None:
    loaded = load(path)
    stored = load_file(path / "model.safetensors").values()
    assert loaded.config.num_parameters() == sum(tensor.numel() for tensor in stored)


def test_progress_grows_to_the_size_of_the_weights(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_model(EngineConfig(model=str(path)), OPS, lambda done, total: seen.append((done, total)))
    size = sum(tensor.nbytes for tensor in load_file(path / "model.safetensors").values())
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("stored", "kept"),
    [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float32, "float32"), (torch.float64, "float32")],
)
def test_the_type_of_the_checkpoint_is_kept(path: Path, stored: torch.dtype, kept: str) -> None:
    """The numbers are those of the file, and so are the results, but for activations rounded to bfloat16."""
    tensors = {name: tensor.to(stored) for name, tensor in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors")
    own, wide = load(path), load(path, dtype="float32")
    assert (own.format, wide.format) == (kept, "float32")
    ours, theirs = plain_weights(own), plain_weights(wide)
    assert np.array_equal(ours["embed.weight"], tensors["model.embed_tokens.weight"].float().numpy())
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    logits, exact = whole_logits(own, PROMPT), whole_logits(wide, PROMPT)
    assert torch.equal(logits, exact) == (kept != "bfloat16")
    assert (logits - exact).abs().mean() < 0.02 * exact.std()
    assert kv_dtype_of(own.description.settings) == "float32"


def test_the_bundled_model_is_kept_in_bfloat16() -> None:
    assert load(Path(BUNDLED_MODEL)).format == "bfloat16"


def test_only_what_all_matrices_are_stored_in_is_kept(path: Path) -> None:
    narrow = {name: tensor.bfloat16() for name, tensor in load_file(path / "model.safetensors").items()}
    save_file({n: t.float() if t.ndim == 1 else t for n, t in narrow.items()}, path / "model.safetensors")
    assert load(path).format == "bfloat16"
    save_file(narrow | {"lm_head.weight": narrow["lm_head.weight"].float()}, path / "model.safetensors")
    assert load(path).format == "float32"
    save_file(narrow | {"lm_head.weight": narrow["lm_head.weight"].half()}, path / "model.safetensors")
    assert load(path).format == "float32"


@pytest.mark.parametrize(
    ("announced", "kept"), [("bfloat16", "bfloat16"), ("torch.float16", "float16"), ("float8_e4m3fn", "float32")]
)
def test_the_config_says_the_type_of_weights_that_are_not_there(path: Path, announced: str, kept: str) -> None:
    edit_json(path / "config.json", dtype=announced)
    assert load(path, load_format="dummy").format == kept
    assert load(path, load_format="dummy", dtype="float32").format == "float32"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "float32"),
        ({"dtype": "float32"}, "float32"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "half"}, "bfloat16"),
        ({"quantization": "int8"}, "bfloat16"),
        ({"dtype": "float32", "quantization": "int4"}, "bfloat16"),
        ({"dtype": "bfloat16", "kv_cache_dtype": "float32"}, "float32"),
        ({"kv_cache_dtype": "int8"}, "int8"),
    ],
)
def test_keys_and_values_follow_what_is_asked_for_not_the_checkpoint(settings: dict[str, str], expected: str) -> None:
    assert kv_dtype_of(EngineConfig(**settings)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_names_without_the_familys_prefix_are_understood(family: str, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, family)
    before = whole_logits(load(path), PROMPT)
    prefix = {"llama": "model.", "gpt2": "transformer.", "gpt_neox": "gpt_neox."}[family]
    tensors = load_file(path / "model.safetensors")
    save_file({name.removeprefix(prefix): t for name, t in tensors.items()}, path / "model.safetensors")
    assert torch.equal(whole_logits(load(path), PROMPT), before)


def test_tables_that_old_checkpoints_saved_are_dropped(tmp_path: Path) -> None:
    leftovers = {
        "llama": ["model.layers.1.self_attn.rotary_emb.inv_freq"],
        "gpt2": ["transformer.h.0.attn.bias", "h.1.attn.masked_bias"],
        "gptj": ["transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"],
        "gpt_neox": ["gpt_neox.layers.1.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"],
    }
    for family, names in leftovers.items():
        path = make_checkpoint(tmp_path / family, family)
        before = whole_logits(load(path), PROMPT)
        rewrite(path, **{name: torch.ones(3, dtype=torch.uint8) for name in names})
        assert torch.equal(whole_logits(load(path), PROMPT), before)


def test_missing_tensor_is_named(path: Path) -> None:
    rewrite(path, model__layers__1__mlp__up_proj__weight=None)
    assert "missing: layers.1.mlp.up_proj.weight" in failure(path)


def test_missing_head_of_an_untied_model_is_named(path: Path) -> None:
    rewrite(path, lm_head__weight=None)
    assert "missing: lm_head.weight" in failure(path)


def test_extra_tensor_is_named(path: Path) -> None:
    rewrite(path, model__layers__2__mlp__up_proj__weight=torch.zeros(80, 48))
    assert "left over (the model has no place for them): model.layers.2.mlp.up_proj.weight" in failure(path)


def test_wrong_shape_shows_both_shapes(path: Path) -> None:
    rewrite(path, model__layers__0__self_attn__k_proj__weight=torch.zeros(48, 48))
    message = failure(path)
    assert "model.layers.0.self_attn.k_proj.weight has shape [48, 48] but the config asks for [24, 48]" in message


def test_tensor_in_two_shards_is_named(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, shard_size="20KB")
    shard = next(file for file in path.glob("*.safetensors") if "model.norm.weight" not in load_file(file))
    save_file({**load_file(shard), "model.norm.weight": torch.ones(48)}, shard)
    assert "there more than once: norm.weight" in failure(path)


def test_integer_weights_are_refused(path: Path) -> None:
    rewrite(path, model__norm__weight=torch.ones(48, dtype=torch.int8))
    assert "model.norm.weight has type I8" in failure(path)


def test_long_lists_of_names_are_cut(path: Path) -> None:
    rewrite(path, **{f"extra{i}": torch.zeros(1) for i in range(12)})
    assert "and 7 more" in failure(path)


def test_stored_head_of_a_tied_model_must_be_the_embedding(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, tie_word_embeddings=True)
    before = whole_logits(load(path), PROMPT)
    embedding = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(path, lm_head__weight=embedding.clone())
    assert torch.equal(whole_logits(load(path), PROMPT), before)
    rewrite(path, lm_head__weight=embedding + 1)
    assert "tie_word_embeddings" in failure(path)


def test_damaged_weight_files_are_named(path: Path) -> None:
    file = path / "model.safetensors"
    good = file.read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    damages = {
        "empty": b"",
        "only a length": good[:8],
        "cut in the header": good[: 8 + length // 2],
        "cut in the data": good[:-100],
        "too long": good + b"more",
        "broken header": good[:8] + b"{" * length + good[8 + length :],
        "no safetensors at all": b"PK\x03\x04 this is a zip file",
        "huge header": struct.pack("<Q", 2**62) + good[8:],
    }
    for damage, content in damages.items():
        file.write_bytes(content)
        assert str(file) in failure(path), damage


def test_header_above_the_formats_limit_is_refused_unread(path: Path) -> None:
    file = path / "model.safetensors"
    with file.open("wb") as sparse:
        sparse.write(struct.pack("<Q", 200_000_000))
        sparse.truncate(300_000_000)
    assert "header of 200000000 bytes" in failure(path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", 7, "x.bin"])
def test_index_must_name_plain_files(path: Path, name: Any) -> None:
    (path / "model.safetensors").rename(path.parent / "model.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    assert "not a plain .safetensors file name" in failure(path)


def test_damaged_index_is_named(path: Path) -> None:
    (path / "model.safetensors").unlink()
    index = path / "model.safetensors.index.json"
    for content in ("", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {', "[" * 100_000):
        index.write_text(content)
        assert "index.json" in failure(path), content[:20]
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "gone.safetensors"}}))
    assert "gone.safetensors" in failure(path)


def test_pickles_are_never_read(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04 would run code")
    assert "pytorch_model.bin" in failure(path)
    assert "never read" in failure(path)


def test_weights_under_another_single_name_are_found(path: Path) -> None:
    (path / "model.safetensors").rename(path / "weights.safetensors")
    load(path)
    (path / "more.safetensors").write_bytes((path / "weights.safetensors").read_bytes())
    assert "several weight files" in failure(path)
    for file in path.glob("*.safetensors"):
        file.unlink()
    assert "has no weights" in failure(path)


def test_missing_and_damaged_config(path: Path) -> None:
    for content in ("", "[1]", '{"a": ', "\ufffd"):
        (path / "config.json").write_text(content)
        assert "config.json" in failure(path)
    (path / "config.json").write_bytes(b"\xff\xfe")
    assert "config.json" in failure(path)
    (path / "config.json").unlink()
    assert "config.json" in failure(path)


def test_dummy_weights_need_only_a_config(path: Path) -> None:
    (path / "model.safetensors").unlink()
    first, second = load(path, load_format="dummy"), load(path, load_format="dummy")
    logits = whole_logits(first, PROMPT)
    assert logits.isfinite().all()
    assert torch.equal(logits, whole_logits(second, PROMPT))
    assert logits.std() > 0


@pytest.mark.parametrize(
    ("settings", "kept", "outer"),
    [
        ({}, "float32", "float32"),
        ({"dtype": "float"}, "float32", "float32"),
        ({"dtype": "bfloat16"}, "bfloat16", "bfloat16"),
        ({"dtype": "half"}, "float16", "float16"),
        ({"quantization": "int8"}, "int8", "int8"),
        ({"dtype": "bfloat16", "quantization": "int4"}, "int4", "int8"),
    ],
)
def test_weights_are_kept_as_asked(path: Path, settings: dict[str, str], kept: str, outer: str) -> None:
    """Embedding, head and the second linear of the last layer keep eight bits where the linears have four; norms and
    biases are float32 always."""
    loaded = load(path, **settings)
    assert loaded.format == kept
    formats = {name: matrix.format for name, matrix in loaded.decoder.weights.matrices.items()}
    outers = {"embed.weight", "head.weight", *(["layers.1.down.weight"] if kept == "int4" else [])}
    assert {formats[name] for name in outers & formats.keys()} == {outer}
    assert {formats[name] for name in formats.keys() - outers} == {kept}
    assert {vector.dtype for vector in loaded.decoder.weights.vectors.values()} == {np.dtype(np.float32)}
    assert whole_logits(loaded, PROMPT).isfinite().all()


def test_four_bits_are_eight_where_llama_cpp_has_more() -> None:
    """The layers whose `ffn_down` is in Q6_K in a Q4_K_M file of a model with 18 layers (Gemma 3 270M)."""
    found = [layer for layer in range(18) if has_more_bits(f"layers.{layer}.down.weight", 18)]
    assert found == [0, 1, 4, 7, 10, 13, 15, 16, 17]


@pytest.mark.parametrize("settings", [{}, {"dtype": "float16"}, {"dtype": "bfloat16"}, {"quantization": "int8"}])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["model.layers.0.mlp.down_proj.weight", "model.norm.weight"])
def test_weights_that_are_not_finite_are_named(path: Path, settings: dict[str, str], value: float, name: str) -> None:
    stored = load_file(path / "model.safetensors")
    stored[name].view(-1)[7] = value
    save_file(stored, path / "model.safetensors")
    assert f"{name} holds {value:g}, which is not a finite number" in failure(path, **settings)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 1e5), ("float16", -65_600.0), ("bfloat16", 3.4e38)])
def test_weights_that_do_not_fit_their_type_are_named(path: Path, dtype: str, value: float) -> None:
    stored = load_file(path / "model.safetensors")
    stored["model.layers.1.self_attn.q_proj.weight"][3, 5] = value
    save_file(stored, path / "model.safetensors")
    load(path)
    message = failure(path, dtype=dtype)
    assert f"model.layers.1.self_attn.q_proj.weight holds {value:g}" in message
    assert "float32" in message
    stored["model.layers.1.self_attn.q_proj.weight"][3, 5] = torch.finfo(getattr(torch, dtype)).max
    save_file(stored, path / "model.safetensors")
    load(path, dtype=dtype)


def test_float64_weights_that_float32_cannot_hold_are_named(path: Path) -> None:
    stored = {name: tensor.double() for name, tensor in load_file(path / "model.safetensors").items()}
    stored["model.norm.weight"][0] = 1e300
    save_file(stored, path / "model.safetensors")
    assert "model.norm.weight holds 1e+300" in failure(path)


def test_max_model_len_beyond_the_model_is_refused_with_both_numbers(path: Path) -> None:
    assert load(path).max_len == 512
    assert load(path, max_model_len=100).max_len == 100
    with pytest.raises(ConfigError, match=r"513.*512"):
        load(path, max_model_len=513)


def test_weights_larger_than_memory_are_refused(path: Path) -> None:
    edit_json(path / "config.json", vocab_size=2**31 - 1, hidden_size=2**20)
    assert "memory" in failure(path, load_format="dummy")


def test_unknown_places_are_refused(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "../up", ".hidden/model", "a/b/c", "bad name", ""):
        with pytest.raises(ModelError, match="no directory"):
            locate_model(name)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ModelError, match="is a file;"):
        locate_model(str(file))
