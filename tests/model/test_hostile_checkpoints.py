"""A model directory is data from a stranger: it loads as transformers loads it, or a `ModelError` says what is wrong,
within a second. Nothing else ever comes out, and nothing waits."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.checkpoints import make_checkpoint, random_prompt, reference_logits

from flover import SamplingParams
from flover.errors import ConfigError, ModelError
from flover.generation_config import read_sampling_defaults
from flover.model.locate import locate_model
from flover.source import open_source
from flover.text.tokenizer import Tokenizer
from model.driver import load, whole_logits

PROMPT = random_prompt(1, 30)
SECONDS = 30.0
"""Far more than it takes, far less than waiting for a pipe."""
TOLERANCE = 1e-3

FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
KINDS = ("fifo", "socket", "directory", "device", "out", "nowhere", "loop")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("good"), tokenizer=True, eos_token_id=2)


@pytest.fixture
def path(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def load_all(path: Path) -> Any:
    """Everything that a start reads."""
    read_sampling_defaults(open_source(path))
    Tokenizer.load(path)
    return load(path)


def put(file: Path, kind: str) -> None:
    """Something of this kind in the place of a file."""
    file.unlink(missing_ok=True)
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "socket":
            here = Path.cwd()
            os.chdir(file.parent)  # a socket's path may have a hundred characters
            try:
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(file.name)
            finally:
                os.chdir(here)
        case "directory":
            file.mkdir()
        case "device":
            file.symlink_to("/dev/zero")
        case "out":
            outside = file.parent.parent / "outside.json"
            outside.write_text("{}")
            file.symlink_to(outside)
        case "nowhere":
            file.symlink_to(file.parent / "gone")
        case "loop":
            file.symlink_to(file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_inside_the_directory_is_refused(path: Path, name: str, kind: str) -> None:
    if name == "model.safetensors.index.json":
        (path / "model.safetensors").unlink()
    put(path / name, kind)
    started = time.monotonic()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_all(path)
    assert time.monotonic() - started < SECONDS


def test_files_of_the_hubs_cache_are_links_to_its_blobs(good: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(good.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    load_all(snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    load_all(tmp_path / "link")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(good / "config.json")
    with pytest.raises(ModelError, match="leads out of"):
        load_all(snapshot)


def test_a_sparse_file_is_not_read(path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        saved = (path / name).read_bytes()
        with (path / name).open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(ModelError, match="at most"):
            load_all(path)
        (path / name).write_bytes(saved)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a\0b.safetensors", "a\nb.safetensors", ".safetensors", "~/x.safetensors"]
)
def test_names_that_no_file_can_have(path: Path, name: str) -> None:
    (path / "model.safetensors").unlink()
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": name, "x" * 10_000: name}}))
    with pytest.raises(ModelError) as caught:
        load(path)
    assert len(str(caught.value)) < 1500
    with pytest.raises(ModelError):
        locate_model(name)


@pytest.mark.parametrize(
    "content",
    ['{"a": 1, "a": 2}', '{"vocab_size": 1, "vocab_size": 2}', "[" * 10**6, '{"a":' * 10**5, "9" * 10**6, '"\\ud800"'],
)
def test_json_that_readers_do_not_agree_about(path: Path, content: str) -> None:
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        saved = (path / name).read_bytes()
        (path / name).write_text(content)
        with pytest.raises(ModelError, match=name):
            load_all(path)
        (path / name).write_bytes(saved)


# Random hostility

NUMBERS = [0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**400, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf")]
VALUES = st.one_of(
    st.sampled_from([None, True, False, "", "x", "x" * 5000, [], {}, [None], [1, 2], {"a": 1}, "silu", "llama"]),
    st.sampled_from(NUMBERS),
    st.integers(-(2**70), 2**70),
    st.floats(),
)
ROPE_FIELDS = (
    *("rope_theta", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
    *("mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor"),
    *("partial_rotary_factor", "truncate", "type"),
)
ROPE = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["default", "linear", "dynamic", "yarn", "longrope", "llama3", "su", "x", None])},
    optional=dict.fromkeys(ROPE_FIELDS, VALUES),
)
CONFIG_FIELDS = (
    *("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps", "hidden_act", "dtype"),
    *("torch_dtype", "tie_word_embeddings", "eos_token_id", "rope_theta", "sliding_window", "use_sliding_window"),
    *("layer_types", "attention_bias", "mlp_bias", "quantization_config", "final_logit_softcapping", "logit_scale"),
    *(
        "residual_multiplier",
        "embedding_multiplier",
        "qk_norm",
        "partial_rotary_factor",
        "rope_scaling",
        "no_rope_layers",
    ),
    *("is_causal", "clip_qkv", "query_pre_attn_scalar", "num_local_experts", "attn_logit_softcapping", "rotary_pct"),
)
LIKELY: dict[str, list[Any]] = {
    "model_type": ["granite", "helium", "smollm3", "olmo2", "mistral", "qwen2", "gemma"],
    "layer_types": [["sliding_attention", "full_attention"], ["full_attention"] * 2, ["sliding_attention"] * 2],
    "scale_attn_weights": [False],
    "scale_attn_by_inverse_layer_idx": [True],
    "is_causal": [False, None],
    "hidden_act": ["relu", "gelu_accurate", "quick_gelu", "relu2"],
    "sliding_window": [5, None],
    "use_sliding_window": [True, False],
    "max_window_layers": [0, 1],
    "rms_norm_eps": [1e-2, 0.5],
}
ANY_CHANGES = st.dictionaries(st.sampled_from(CONFIG_FIELDS), VALUES, min_size=1, max_size=3)
LIKELY_CHANGES = st.lists(
    st.sampled_from([(name, value) for name, values in LIKELY.items() for value in values]), min_size=1, max_size=3
).map(dict)
CONFIG_CHANGES = ANY_CHANGES | LIKELY_CHANGES


def agrees_with_transformers(path: Path) -> bool:
    """Whether the loaded model computes what transformers computes, where transformers loads it at all."""
    ours = whole_logits(load(path), PROMPT)
    try:
        theirs = reference_logits(path, PROMPT)
    except Exception:  # refusing is for them to decide; what Flover loads is then its own
        return True
    return torch.allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE, equal_nan=True)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
@settings(max_examples=80)
@given(changes=CONFIG_CHANGES, rope=st.none() | ROPE)
def test_a_config_of_any_content_is_right_or_refused(
    good: Path, family: str, changes: dict[str, Any], rope: Any
) -> None:
    path = good.parent / f"mutated {family}"
    if not path.exists():
        make_checkpoint(path, family)
        shutil.copy(path / "config.json", path / "saved.json")
    data = json.loads((path / "saved.json").read_text()) | changes
    if rope is not None:
        data["rope_parameters"] = rope
    (path / "config.json").write_text(json.dumps(data))
    started = time.monotonic()
    try:
        load(path)
    except (ModelError, ConfigError) as error:
        assert time.monotonic() - started < SECONDS
        assert len(str(error)) < 1500
        return
    assert time.monotonic() - started < SECONDS
    assert agrees_with_transformers(path)


TENSOR_CHANGES = st.sampled_from(["drop", "rename", "shape", "integer", "nan", "inf", "double", "half", "empty"])


@settings(max_examples=60)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 19), TENSOR_CHANGES), min_size=1, max_size=2, unique_by=lambda change: change[0]
    ),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
)
def test_weights_of_any_content_are_right_or_refused(good: Path, changes: list[tuple[int, str]], dtype: str) -> None:
    path = good.parent / "weights"
    if not path.exists():
        shutil.copytree(good, path)
    tensors = load_file(good / "model.safetensors")
    for place, change in changes:
        name = sorted(tensors)[place % len(tensors)]
        tensor = tensors.pop(name)
        match change:
            case "rename":
                tensors[name + "x"] = tensor
            case "shape":
                tensors[name] = tensor[:-1].contiguous()
            case "integer":
                tensors[name] = tensor.to(torch.int32)
            case "nan" | "inf" if tensor.is_floating_point():
                tensor.view(-1)[0] = float(change)
                tensors[name] = tensor
            case "double" | "half":
                tensors[name] = tensor.to(torch.float64 if change == "double" else torch.float16)
            case "empty":
                tensors[name] = torch.zeros(0)
            case "nan" | "inf":  # of a tensor of integers there is none
                tensors[name] = tensor
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    try:
        loaded = load(path, dtype=dtype)
    except ModelError as error:
        assert len(str(error)) < 1500
        return
    assert {change for _, change in changes} <= {"double", "half"}
    assert whole_logits(loaded, PROMPT).isfinite().all()
    if dtype == "float32":
        assert agrees_with_transformers(path)


GENERATION = st.dictionaries(
    st.sampled_from(["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens", "eos_token_id"]),
    VALUES,
    max_size=3,
)


@settings(max_examples=150)
@given(generation=GENERATION)
def test_a_generation_config_of_any_content_gives_usable_values_or_is_refused(
    good: Path, generation: dict[str, Any]
) -> None:
    path = good.parent / "generation"
    if not path.exists():
        shutil.copytree(good, path)
    (path / "generation_config.json").write_text(json.dumps(generation))
    try:
        defaults = read_sampling_defaults(open_source(path))
    except ModelError as error:
        assert "generation_config.json" in str(error)
        assert any(name in str(error) for name in generation)
        return
    SamplingParams(**defaults)  # type: ignore[arg-type]
    given = {name for name, value in generation.items() if value is not None} - {"eos_token_id"}
    assert set(defaults) == {"max_tokens" if name == "max_new_tokens" else name for name in given}
