"""Model files, tokenizers and chat templates by chance: a `ModelError` or a model, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save
from support.chat_families import FAMILIES
from support.fuzz import Fuzzer, mutate_json

from flover.errors import ModelError, RequestError
from flover.source import open_source
from flover.text.chat import ChatTemplate
from flover.text.tokenizer import Tokenizer

TINY = Path(__file__).parents[2] / "src/flover/assets/flover-tiny"
TEXT = "Once upon a time, é\u0301 <eos>\n"
"""Encoded and decoded by every tokenizer."""


def read_whole(path: Path) -> None:
    """Everything of a model but its computation."""
    source = open_source(path)
    source.document("config.json")
    infos = list(source.tensors())
    for _, _ in source.read(infos):
        pass


def test_gguf(fuzzer: Fuzzer, tmp_path: Path) -> None:
    seed = tmp_path / "seed.gguf"
    writer = gguf.GGUFWriter(seed, "llama")
    for name, value in {
        "block_count": 1,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 32,
    }.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", "<eos>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(3)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 34), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    def check(data: bytes) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        try:
            read_whole(path)
            Tokenizer.load(path)
        except ModelError as error:
            assert len(str(error)) < 2000

    read_whole(seed)
    assert fuzzer.run("gguf", [seed.read_bytes()], check, limit=2.0)


def test_safetensors(fuzzer: Fuzzer, tmp_path: Path) -> None:
    seed = save(
        {"a.weight": np.zeros((4, 3), np.float32), "b": np.arange(5, dtype=np.float16), "c": np.zeros(0, np.int8)}
    )
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')

    def change(rng: random.Random, data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = mutate_json(rng, data[8 : 8 + length]) if length <= len(data) else b"{}"
        return len(header).to_bytes(8, "little") + header + data[8 + length :]

    def check(data: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(data)
        try:
            read_whole(tmp_path)
        except ModelError as error:
            assert len(str(error)) < 2000

    check(seed)
    read_whole(tmp_path)
    assert fuzzer.run("safetensors", [seed], check, limit=2.0, mutate=change)


def small_tokenizer() -> dict[str, Any]:
    """The bundled one, with few of its tokens."""
    found: dict[str, Any] = json.loads((TINY / "tokenizer.json").read_text())
    vocabulary = dict(list(found["model"]["vocab"].items())[:300])
    merges = found["model"]["merges"]
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in merges]
    found["model"]["merges"] = [merge for merge, pair in zip(merges, pairs, strict=True) if "".join(pair) in vocabulary]
    found["model"]["vocab"] = vocabulary
    return found


def test_tokenizer(fuzzer: Fuzzer, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def check(data: bytes) -> None:
        (tmp_path / "tokenizer.json").write_bytes(data)
        try:
            tokenizer = Tokenizer.load(tmp_path)
            tokenizer.decode(tokenizer.encode(TEXT), skip_special_tokens=False)
            assert tokenizer.longest_token_len and tokenizer.vocabulary is not None
        except (ModelError, RequestError) as error:
            assert len(str(error)) < 2000

    seed = json.dumps(small_tokenizer()).encode()
    assert Tokenizer.load(TINY)
    assert fuzzer.run("tokenizer", [seed], check, limit=2.0, mutate=mutate_json)


MESSAGES = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "4"},
]


def splice(rng: random.Random, data: bytes) -> bytes:
    """A piece of one family's template in another's."""
    other = rng.choice(TEMPLATES)
    begin, place = rng.randrange(len(other)), rng.randrange(len(data) + 1)
    return data[:place] + other[begin : begin + rng.randrange(200)] + data[place:]


TEMPLATES = [text.encode() for text in FAMILIES.values()]


def test_chat_template(fuzzer: Fuzzer) -> None:
    def check(data: bytes) -> None:
        try:
            template = ChatTemplate(data.decode(errors="replace"))
            template.render(MESSAGES, add_generation_prompt=True)
        except (ModelError, RequestError) as error:
            assert len(str(error)) < 2000

    assert fuzzer.run("chat_template", TEMPLATES, check, limit=5.0, mutate=splice)
