"""A folder with vocab.json and merges.txt gives the tokenizer that transformers makes of it, or is refused in words."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import text_samples as samples
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from flover.errors import ModelError
from flover.generation_config import read_eos_ids
from flover.source import open_source
from flover.text.tokenizer import Tokenizer

END = "<|endoftext|>"
QWEN = "<|im_start|>"


@functools.cache
def _model() -> dict[str, Any]:
    """Vocabulary and merges of the sample tokenizer, with GPT-2's special token last."""
    model = json.loads(samples.backend("byte_level").to_str())["model"]
    tokens = [token for token in model["vocab"] if token not in samples.SPECIAL]
    return {"vocab": {token: i for i, token in enumerate([*tokens, END])}, "merges": model["merges"]}


def write(folder: Path, name: str = "GPT2Tokenizer", **config: Any) -> Path:
    """The folder of such a model."""
    vocabulary, merges = _model()["vocab"], _model()["merges"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name} | config))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2" if name == "GPT2Tokenizer" else "qwen2"}))
    return folder


def added(folder: Path) -> dict[str, Any]:
    """Two added tokens behind the vocabulary, one of them special."""
    size = len(_model()["vocab"])
    one = {"content": QWEN, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {
        str(size): one | {"special": True},
        str(size + 1): one | {"content": "東京", "special": False, "normalized": True},
    }


CASES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2, a space before the text": {"add_prefix_space": True},
    "gpt2, begins with a token": {"add_bos_token": True, "bos_token": END},
    "qwen2": {"name": "Qwen2Tokenizer"},
    "qwen2 with added tokens": {"name": "Qwen2Tokenizer", "added": True, "eos_token": QWEN},
}


@functools.cache
def loaded(case: str) -> tuple[Tokenizer, Any]:
    """Ours and transformers'."""
    with tempfile.TemporaryDirectory() as name:
        folder, fields = Path(name), dict(CASES[case])
        if fields.pop("added", False):
            fields["added_tokens_decoder"] = added(folder)
        write(folder, **fields)
        return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=60)
@given(text=st.sampled_from(samples.SAMPLE) | st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_ids_are_those_of_transformers(case: str, text: str) -> None:
    ours, theirs = loaded(case)
    for one in (text, f"a{END}{text}{QWEN} 東京\n", f" {text}1234 \r\n\n"):
        ids = theirs(one).input_ids
        assert ours.encode(one) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_the_end_is_found_in_the_same_files(tmp_path: Path) -> None:
    vocabulary = _model()["vocab"]
    write(tmp_path, eos_token=END)
    assert read_eos_ids(open_source(tmp_path), open_source(tmp_path), 10_000) == (vocabulary[END],)
    (tmp_path / "added_tokens.json").write_text(json.dumps({QWEN: len(vocabulary)}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": QWEN}))
    assert read_eos_ids(open_source(tmp_path), open_source(tmp_path), 10_000) == (len(vocabulary),)
    tokenizer = Tokenizer.load(tmp_path)  # the class from config.json
    assert tokenizer.eos_id == len(vocabulary)
    assert tokenizer.is_special(len(vocabulary))


DAMAGED: dict[str, tuple[str, str, str]] = {
    "not JSON": ("vocab.json", "{", "vocab.json"),
    "no ids": ("vocab.json", '{"a": "b"}', "vocab.json must hold a token id"),
    "negative": ("vocab.json", '{"a": -1}', "vocab.json must hold a token id"),
    "three tokens": ("merges.txt", "a b c\n", "merges.txt: each line must be two tokens"),
    "one token": ("merges.txt", "#version: 0.2\na\n", "merges.txt: each line must be two tokens"),
    "merges of unknown tokens": ("merges.txt", "xyz q\n", "vocab.json is damaged"),
    "class": ("tokenizer_config.json", '{"tokenizer_class": "RobertaTokenizer"}', "RobertaTokenizer"),
    "gap": ("added_tokens.json", '{"x": 90000}', "has id 90000, after vocab.json it must be"),
    "another token's id": ("added_tokens.json", '{"x": 5}', "has id 5, after vocab.json it must be"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_named(case: str, tmp_path: Path) -> None:
    name, content, said = DAMAGED[case]
    write(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=said.replace(".", r"\.")):
        Tokenizer.load(tmp_path)


def test_one_of_the_two_files_is_not_enough(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"vocab\.json is there, but only tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_json_comes_first(tmp_path: Path) -> None:
    write(tmp_path)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode("a", add_special_tokens=False) == [0]
