"""GGUF as the benchmark writes it: bytes read back by a small reader, numbers packed as plain loops pack them."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from flover_benchmarks.rivals.convert import convert, gguf_name, reorder_heads
from flover_benchmarks.rivals.gguf import Tensor, write_gguf
from flover_benchmarks.rivals.model import make_model, pieces, shapes, write_model
from flover_benchmarks.rivals.quants import KINDS, pack_rows
from model.driver import load, whole_logits
from safetensors.torch import load_file

from flover.bench.presets import PRESETS
from flover.errors import ModelError
from flover.model.hf_config import read_config

SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "head_dim": 64,
    "vocab_size": 300,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIG = PRESETS["llama-213m"] | SMALL
NUMBERS = {number: name for name, number in ((name, kind.number) for name, kind in KINDS.items())}
SIMPLE = {4: "I", 5: "i", 6: "f", 7: "?"}


def quiet(what: str, done: int, total: int) -> None:
    pass


class Reader:
    """A GGUF file, read as its description says."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 4
        assert self.data[:4] == b"GGUF"
        version, num_tensors, num_facts = self.take("IQQ")
        assert version == 3
        self.facts = {self.text(): self.value(self.take("I")[0]) for _ in range(num_facts)}
        self.tensors: dict[str, tuple[tuple[int, ...], str, int]] = {}
        for _ in range(num_tensors):
            name = self.text()
            dims = self.take(f"{self.take('I')[0]}Q")
            number, offset = self.take("IQ")
            self.tensors[name] = dims[::-1], NUMBERS[number], offset
        self.start = math.ceil(self.at / 32) * 32

    def take(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def text(self) -> str:
        (length,) = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            item, length = self.take("IQ")
            return [self.value(item) for _ in range(length)]
        return self.take(SIMPLE[kind])[0]

    def numbers(self, name: str) -> np.ndarray:
        shape, kind, offset = self.tensors[name]
        form = KINDS[kind]
        assert offset % 32 == 0
        size = math.prod(shape) // form.block * form.size
        raw = self.data[self.start + offset : self.start + offset + size]
        assert len(raw) == size
        blocks = [raw[at : at + form.size] for at in range(0, size, form.size)]
        return np.array([number for block in blocks for number in UNPACK[kind](block)], np.float32).reshape(shape)


def unpack_bf16(block: bytes) -> list[float]:
    return [struct.unpack("<f", b"\0\0" + block)[0]]


def unpack_q8_0(block: bytes) -> list[float]:
    scale, *steps = struct.unpack("<e32b", block)
    return [scale * step for step in steps]


def unpack_q4_0(block: bytes) -> list[float]:
    (scale,) = struct.unpack("<e", block[:2])
    return [scale * ((byte & 15) - 8) for byte in block[2:]] + [scale * ((byte >> 4) - 8) for byte in block[2:]]


def unpack_q6_k(block: bytes) -> list[float]:
    """`dequantize_row_q6_K` of ggml-quants.c, number by number."""
    low, high, parts = block[:128], block[128:192], struct.unpack("16b", block[192:208])
    (scale,) = struct.unpack("<e", block[208:])
    out = [0.0] * 256
    for half in range(2):
        for i in range(32):
            for quarter in range(4):
                byte = low[64 * half + 32 * (quarter % 2) + i]
                bits = (byte & 15 if quarter < 2 else byte >> 4) | ((high[32 * half + i] >> 2 * quarter & 3) << 4)
                at = 128 * half + 32 * quarter + i
                out[at] = scale * parts[at // 16] * (bits - 32)
    return out


UNPACK = {
    "f32": lambda block: struct.unpack("<f", block),
    "f16": lambda block: struct.unpack("<e", block),
    "bf16": unpack_bf16,
    "q8_0": unpack_q8_0,
    "q4_0": unpack_q4_0,
    "q6_k": unpack_q6_k,
}


def half(value: float) -> float:
    return float(np.float16(value))


def plain_q8_0(block: list[float]) -> bytes:
    scale = np.float32(max(abs(x) for x in block)) / np.float32(127)
    inverse = np.float32(1) / scale if scale else np.float32(0)
    steps = [np.float32(x) * inverse for x in block]
    rounded = [int(math.copysign(math.floor(abs(float(x)) + 0.5), x)) for x in steps]  # in doubles: halves are exact
    return struct.pack("<e32b", np.float16(scale), *rounded)


def plain_q4_0(block: list[float]) -> bytes:
    farthest = max(block, key=abs)
    scale = np.float32(farthest) / np.float32(-8)
    inverse = np.float32(1) / scale if scale else np.float32(0)
    steps = [min(15, int(np.float32(x) * inverse + np.float32(8.5))) for x in block]
    return struct.pack("<e", np.float16(scale)) + bytes(steps[i] | steps[i + 16] << 4 for i in range(16))


def random_rows(*shape: int) -> np.ndarray:
    rows = np.random.default_rng(5).normal(0, 0.02, shape).astype(np.float32)
    rows[0, :32] = 0
    return rows


@pytest.mark.parametrize(("kind", "plain"), [("q8_0", plain_q8_0), ("q4_0", plain_q4_0)])
def test_blocks_are_packed_as_a_plain_loop_packs_them(kind: str, plain: Any) -> None:
    rows = random_rows(16, 128)
    wanted = b"".join(plain([float(x) for x in block]) for block in rows.reshape(-1, 32))
    assert pack_rows(kind, rows).tobytes() == wanted


@pytest.mark.parametrize(("kind", "steps"), [("q8_0", 127), ("q4_0", 8), ("q6_k", 32)])
def test_what_is_packed_comes_back_within_half_a_step(kind: str, steps: int) -> None:
    rows = random_rows(8, 512)
    form = KINDS[kind]
    part = 16 if kind == "q6_k" else form.block
    packed = pack_rows(kind, rows).tobytes()
    blocks = [UNPACK[kind](packed[at : at + form.size]) for at in range(0, len(packed), form.size)]
    back = np.array(blocks, np.float32).reshape(-1, part)
    largest = np.abs(rows.reshape(-1, part)).max(axis=1, keepdims=True)
    # Scales are rounded to float16, and those of Q6_K to 1/128 of the largest; the last step on one side is cut off.
    slack = {"q8_0": 0.57, "q4_0": 1.01, "q6_k": 1.3}[kind]
    error = np.abs(back - rows.reshape(-1, part))
    assert (error <= slack * np.maximum(largest, largest.max() / 64) / steps + 1e-9).all()
    assert np.abs(back).max() > 0.04


def test_q4_k_comes_back_within_half_a_step_of_its_part() -> None:
    rows = random_rows(8, 512)
    packed = pack_rows("q4_k", rows).reshape(8, -1)
    back = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_K).reshape(-1, 32)
    parts = rows.reshape(-1, 32)
    step = (parts.max(axis=1, keepdims=True) - parts.min(axis=1, keepdims=True)) / 15
    # Scale and offset of a part are rounded to 1/63 of the largest of its block.
    assert (np.abs(back - parts) <= 0.5 * step + 0.15 * step.max()).all()
    assert np.abs(back - parts).mean() < 0.3 * step.mean()


def test_a_q4_k_m_file_has_the_types_that_llama_quantize_chooses(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 8, "intermediate_size": 256}
    write_model(CONFIG | sizes, tmp_path / "model", seed=3, progress=quiet)
    convert(tmp_path / "model", tmp_path / "model.gguf", "q4_k_m", quiet)
    kinds = {name: kind for name, (_, kind, _) in Reader(tmp_path / "model.gguf").tensors.items()}
    more = [layer for layer in range(8) if kinds[f"blk.{layer}.ffn_down.weight"] == "q6_k"]
    assert more == [layer for layer in range(8) if kinds[f"blk.{layer}.attn_v.weight"] == "q6_k"] == [0, 3, 6, 7]
    assert kinds["output.weight"] == "q6_k"
    assert {kinds["token_embd.weight"], kinds["blk.3.attn_q.weight"], kinds["blk.0.ffn_up.weight"]} == {"q4_k"}


def test_a_mixture_of_experts_is_the_same_model_as_gguf(tmp_path: Path) -> None:
    small = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "num_hidden_layers": 2}
    write_model(PRESETS["qwen3-moe-1.3b"] | SMALL | small, tmp_path / "model", seed=3, progress=quiet)
    convert(tmp_path / "model", tmp_path / "model.gguf", "bf16", quiet)
    assert Reader(tmp_path / "model.gguf").tensors["blk.1.ffn_down_exps.weight"][0] == (4, 256, 64)
    found = [whole_logits(load(tmp_path / name), [5, 9, 7, 40, 3]) for name in ("model", "model.gguf")]
    assert torch.equal(*found)


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    rows = np.random.default_rng(1).normal(0, 1, (64, 64)).astype(np.float32)
    rows[0, :2] = [1 + 2**-8, 1 + 3 * 2**-8]  # halfway: to even
    wanted = torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy()
    assert (pack_rows("bf16", rows).view(np.int16).reshape(64, 64) == wanted).all()


def test_a_file_is_read_back(tmp_path: Path) -> None:
    facts = {"a.text": "tüte", "a.count": 7, "a.on": True, "a.real": 0.5, "a.words": ["x", "yz"], "a.ids": [-1, 2]}
    first, second = random_rows(3, 5), random_rows(2, 64)
    tensors = [
        Tensor("first", (3, 5), "f32", lambda: first),
        Tensor("second", (2, 64), "f16", lambda: second),
    ]
    write_gguf(tmp_path / "m.gguf", {**facts, "a.scores": [0.25, -2.0]}, tensors)
    read = Reader(tmp_path / "m.gguf")
    assert read.facts == {**facts, "a.scores": [0.25, -2.0]}
    assert (read.numbers("first") == first).all()
    assert (read.numbers("second") == second.astype(np.float16)).all()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rivals") / "small"
    write_model(CONFIG, path, seed=3, progress=quiet)
    return path


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_a_model_has_the_same_numbers_as_gguf(model: Path, tmp_path: Path, kind: str) -> None:
    convert(model, tmp_path / "m.gguf", kind, quiet)
    read, weights = Reader(tmp_path / "m.gguf"), load_file(model / "model.safetensors")
    assert set(read.tensors) == {gguf_name(name) for name in weights}
    for name, tensor in weights.items():
        rows = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = 4 if "q_proj" in name else 2
            rows = np.concatenate([head[[i // 2 + i % 2 * 32 for i in range(64)]] for head in np.split(rows, heads)])
        found = read.numbers(gguf_name(name))
        assert found.shape == rows.shape
        step = {"f32": 0, "bf16": 0, "f16": 1e-7, "q8_0": 0.0006, "q4_0": 0.013}[kind]
        assert np.abs(found - rows).max() <= step, name
    kinds = {name: form for name, (_, form, _) in read.tensors.items()}
    assert kinds["output_norm.weight"] == kinds["blk.1.attn_norm.weight"] == "f32"
    assert kinds["token_embd.weight"] == kinds["blk.0.ffn_down.weight"] == kind
    assert kinds["output.weight"] == ("q6_k" if kind == "q4_0" else kind)


def test_a_model_says_what_llama_cpp_asks_for(model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "m.gguf", "q8_0", quiet)
    facts = Reader(tmp_path / "m.gguf").facts
    assert facts["general.architecture"] == "llama"
    assert (facts["llama.block_count"], facts["llama.attention.head_count_kv"]) == (2, 2)
    assert facts["llama.rope.freq_base"] == 10000.0
    assert facts["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    words = facts["tokenizer.ggml.tokens"]
    assert words == pieces(300)
    assert len(set(words)) == len(facts["tokenizer.ggml.scores"]) == len(facts["tokenizer.ggml.token_type"]) == 300
    assert words[facts["tokenizer.ggml.eos_token_id"]] == "</s>"
    assert facts["tokenizer.ggml.token_type"][words.index("<0x0A>")] == 6
    assert facts["tokenizer.ggml.token_type"][-1] == 1


def test_only_the_shape_that_is_understood_is_written(model: Path, tmp_path: Path) -> None:
    for change in ({"attention_bias": True}, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}):
        other = tmp_path / next(iter(change))
        other.mkdir()
        (other / "config.json").write_text(json.dumps(CONFIG | change))
        (other / "model.safetensors").symlink_to(model / "model.safetensors")
        with pytest.raises(ModelError, match="only LLaMA's shape"):
            convert(other, tmp_path / "m.gguf", "f16", quiet)


def test_rows_that_are_no_whole_blocks_are_named(tmp_path: Path) -> None:
    write_model(CONFIG | {"intermediate_size": 80}, tmp_path / "odd", seed=0, progress=quiet)
    with pytest.raises(ModelError, match=r"down_proj\.weight has rows of 80 numbers"):
        convert(tmp_path / "odd", tmp_path / "m.gguf", "q8_0", quiet)


def test_heads_are_turned_in_pairs_of_neighbours() -> None:
    assert reorder_heads(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_the_random_model_is_made_once_and_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "little", CONFIG)
    first, second = make_model("little", tmp_path / "a", quiet), make_model("little", tmp_path / "b", quiet)
    data = (first / "model.safetensors").read_bytes()
    assert data == (second / "model.safetensors").read_bytes()
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert make_model("little", tmp_path / "a", quiet) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    weights = load_file(first / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == shapes(CONFIG)
    assert weights["lm_head.weight"].float().std().item() == pytest.approx(0.02, rel=0.02)
    assert len(weights) == 2 + 1 + 9 * read_config(CONFIG)[1].num_layers


def test_the_tokenizer_names_every_id(model: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    assert [tokenizer.id_to_token(number) for number in range(300)] == pieces(300)


def test_the_gguf_package_reads_the_same(model: Path, tmp_path: Path) -> None:
    import gguf

    for kind in ("f16", "q8_0", "q4_0"):
        convert(model, tmp_path / f"{kind}.gguf", kind, quiet)
        ours = Reader(tmp_path / f"{kind}.gguf")
        for tensor in gguf.GGUFReader(tmp_path / f"{kind}.gguf").tensors:
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_allclose(numbers, ours.numbers(tensor.name), rtol=1e-6, atol=1e-9)
