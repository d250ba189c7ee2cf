"""A folder with SentencePiece's tokenizer.model gives the tokenizer that transformers makes of it, or is refused."""

from __future__ import annotations

import functools
import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from text_samples import odd_texts
from tokenizers import models, pre_tokenizers, trainers
from transformers.utils import sentencepiece_model_pb2_new as proto

from flover.errors import ModelError
from flover.generation_config import read_eos_ids
from flover.source import open_source
from flover.text.tokenizer import Tokenizer

MUTATIONS = 300
LLAMA = (("<unk>", 2), ("<s>", 3), ("</s>", 3))
GEMMA = (("<pad>", 3), ("<eos>", 3), ("<bos>", 3), ("<unk>", 2), ("<mask>", 4), ("<start_of_turn>", 3))


@functools.cache
def trained() -> tuple[str, ...]:
    """Pieces of a byte-pair encoding, the first to be merged first."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(odd_texts(0), trainers.BpeTrainer(vocab_size=500, show_progress=False))
    by_id = sorted(made.get_vocab().items(), key=lambda entry: (len(entry[0]) == 1, entry[1]))
    return tuple(text for text, _ in by_id if text not in dict(LLAMA + GEMMA))


def write(folder: Path, gemma: bool = False, **config: Any) -> Path:
    """The folder of such a model; `config` are fields of tokenizer_config.json and, as `trainer` and `normalizer`, of
    the model's own."""
    file = proto.ModelProto()
    ends = GEMMA if gemma else LLAMA
    kinds = [*ends, *((f"<0x{byte:02X}>", 6) for byte in range(256)), *((text, 1) for text in trained()), ("[USER]", 4)]
    for index, (text, kind) in enumerate(kinds):
        piece = file.pieces.add()
        piece.piece, piece.type, piece.score = text, kind, -float(index)
    trainer, normalizer = config.pop("trainer", {}), config.pop("normalizer", {})
    for spec, fields in (
        (file.trainer_spec, {"model_type": 2, "byte_fallback": True} | trainer),
        (file.normalizer_spec, {"name": "identity", "remove_extra_whitespaces": False} | normalizer),
    ):
        for name, value in fields.items():
            setattr(spec, name, value)
    (folder / "tokenizer.model").write_bytes(file.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma" if gemma else "llama"}))
    return folder


CASES: dict[str, dict[str, Any]] = {
    "llama": {"add_bos_token": True, "tokenizer_class": "LlamaTokenizer"},
    "llama, as of old, with an end": {"add_bos_token": True, "add_eos_token": True, "legacy": True},
    "llama without a space before": {"add_bos_token": False, "add_prefix_space": False},
    "llama with more tokens": {
        "add_bos_token": True,
        "tokenizer_class": "LlamaTokenizerFast",
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": True, "normalized": False},
            "SIZE": {"content": "<|im_end|>", "special": True, "lstrip": True, "normalized": False},
        },
    },
    "gemma": {"gemma": True, "add_bos_token": True, "tokenizer_class": "GemmaTokenizer"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_are_those_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = json.loads(json.dumps(CASES[name]).replace("SIZE", str(len(LLAMA) + 256 + len(trained()) + 1)))
    path = write(tmp_path, **case)
    # It asks for the sentencepiece package, and then reads the file with protobuf alone.
    converter = importlib.import_module("transformers.convert_slow_tokenizer")
    monkeypatch.setattr(converter, "requires_backends", lambda *_: None)
    theirs = (transformers.GemmaTokenizer if case.get("gemma") else transformers.LlamaTokenizer).from_pretrained(path)
    ours = Tokenizer.load(path)
    for text in [*odd_texts(1), "a</s>b <s>[USER] the[USER]", "the <|im_end|> end", "<start_of_turn>user"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text), text
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    named = {theirs.convert_tokens_to_ids(text) for text in theirs.special_tokens_map.values() if isinstance(text, str)}
    control = {index for index, (_, kind) in enumerate(GEMMA if case.get("gemma") else LLAMA) if kind == 3}
    assert ours.special_ids == named | control


def test_a_prompt_begins_as_llamas_do_and_the_end_is_known(tmp_path: Path) -> None:
    """transformers 5 needs tokenizer_config.json for a beginning; the models were trained with one."""
    path = write(tmp_path, eos_token="</s>")
    assert Tokenizer.load(path).encode("the")[0] == 1
    source = open_source(path)
    assert read_eos_ids(source, source, 1000) == (2,)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"tokenizer_class": "T5Tokenizer"},
            "is read for tokenizer_class LlamaTokenizer and GemmaTokenizer",
        ),
        ({"trainer": {"model_type": 1}}, "trained with algorithm 1; only 2, BPE"),
        ({"normalizer": {"remove_extra_whitespaces": True}}, "removes repeated spaces"),
        ({"normalizer": {"precompiled_charsmap": b"map"}}, "normalises texts"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **config)
    with pytest.raises(ModelError, match=message):
        Tokenizer.load(path)


def test_damaged_files_are_clear_errors(tmp_path: Path) -> None:
    file = write(tmp_path, add_bos_token=True) / "tokenizer.model"
    whole, errors = file.read_bytes(), []
    for seed in range(MUTATIONS):
        rng = random.Random(seed)
        raw = bytearray(whole)
        at = rng.randrange(min(len(raw), rng.choice((16, 400, 10**6))))
        raw[at : at + rng.choice((1, 4))] = rng.choice((b"\xff", b"\x00", b"\xff" * 10, rng.randbytes(3)))
        file.write_bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.2 else raw)
        try:
            Tokenizer.load(tmp_path).encode("the theatre")
        except ModelError as error:
            errors.append(str(error))
    assert len(errors) > MUTATIONS // 3
    assert all("tokenizer.model" in text and len(text) < 1000 for text in errors)
