"""A tokenizer.json that makes a text grow without bound is refused before it is used."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_tokenizer

from flover.errors import ModelError
from flover.text.tokenizer import Tokenizer

DOUBLE = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
EXPRESSION = {"type": "Replace", "pattern": {"Regex": ""}, "content": "xx"}
NESTED: dict[str, Any] = {"type": "Sequence", "normalizers": [DOUBLE] * 10}
TOKEN = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}


def chain(*steps: dict[str, Any], key: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


HOSTILE: dict[str, dict[str, Any]] = {
    "doubling": {"normalizer": chain(*[DOUBLE] * 40)},
    "doubling inside sequences": {"normalizer": chain(NESTED, NESTED)},
    "an expression that matches everywhere": {"normalizer": chain(*[EXPRESSION] * 30)},
    "one long replacement": {"normalizer": {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 100_000}},
    "a long beginning": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
    "many steps": {"normalizer": chain(*[{"type": "NFC"}] * 10_000)},
    "a decoder": {
        "decoder": chain(*[{"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}] * 40, key="decoders")
    },
    "many special tokens": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, *[TOKEN] * 100_000],
            "pair": [],
            "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [256], "tokens": ["<|end|>"]}},
        }
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_growth_is_refused(name: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | HOSTILE[name]))
    started = time.process_time()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    assert time.process_time() - started < 5


def test_what_models_in_use_do_is_not_refused(tmp_path: Path) -> None:
    """LLaMA's and Gemma's normalizers: a space before the text, three bytes for one."""
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer = chain({"type": "Prepend", "prepend": "▁"}, space, {"type": "NFKC"}, {"type": "Lowercase"})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": normalizer}))
    assert Tokenizer.load(tmp_path).encode("Hello world")
