"""Converts SentencePiece's tokenizer.model to the content of a tokenizer.json, for LLaMA's and Gemma's classes.

What surrounds the pieces is in no file, so it is data here, from transformers' classes of the same names. Merges are
made as in `generate_merges` of transformers: in the order of the tokens that they give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flover.errors import ModelError
from flover.generation_config import MAX_TOKENIZER_BYTES
from flover.source import ModelSource
from flover.source.sentencepiece_file import (
    BPE,
    BYTE,
    CONTROL,
    FILE,
    UNKNOWN,
    USER_DEFINED,
    SentencePieceFile,
    read_sentencepiece,
)
from flover.source.sentencepiece_merges import merges_by_order
from flover.text.bpe_files import added_tokens, tokenizer_class
from flover.text.files import TokenizerFiles

_SPACE = "▁"
_BACK = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_BYTES_AS_TEXT = [_BACK, {"type": "ByteFallback"}, {"type": "Fuse"}]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


@dataclass(frozen=True, slots=True)
class SentencePieceClass:
    """A tokenizer class: the texts of its special tokens where no file names them, and whether a space comes before
    a text."""

    special_tokens: Mapping[str, str]
    prefix: bool


_ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_GEMMA_ENDS = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
KINDS: Mapping[str, SentencePieceClass] = {
    "LlamaTokenizer": SentencePieceClass(_ENDS, prefix=True),
    "GemmaTokenizer": SentencePieceClass(_GEMMA_ENDS | {"mask_token": "<mask>"}, prefix=False),
}
_OF_MODEL_TYPE = dict.fromkeys(("llama", "mistral"), "LlamaTokenizer") | dict.fromkeys(
    ("gemma", "gemma2", "gemma3_text"), "GemmaTokenizer"
)


def describe_sentencepiece(source: ModelSource, files: TokenizerFiles) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises `ModelError` if the file is damaged or not supported."""
    config = source.document("tokenizer_config.json")
    kind = tokenizer_class(source, config, KINDS, _OF_MODEL_TYPE, f"{FILE} is read")
    pieces = _pieces(source)
    vocabulary = {text: index for index, text in enumerate(pieces.texts)}
    names = {name: files.special_tokens.get(name, text) for name, text in kind.special_tokens.items()}
    special = files.special_texts | {*names.values()}
    prefix = kind.prefix and config.get("add_prefix_space") is not False
    stand_ins = [text for text, kind in zip(pieces.texts, pieces.kinds, strict=True) if kind in (UNKNOWN, BYTE)]
    scheme = "never" if not prefix else "always" if config.get("legacy") is True else "first"
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
    return {
        "version": "1.0",
        "added_tokens": added_tokens(source, config, vocabulary, special, _marked(pieces), FILE),
        "normalizer": None if kind.prefix else _REPLACE,
        "pre_tokenizer": metaspace if kind.prefix else None,
        "post_processor": _post_processor(config, vocabulary, names),
        "decoder": {"type": "Sequence", "decoders": [*_BYTES_AS_TEXT, *([_STRIP] if prefix else [])]},
        "model": {
            "type": "BPE",
            "unk_token": None if kind.prefix else names["unk_token"],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": list(merges_by_order(pieces.texts, stand_ins)),
        },
    }


def _pieces(source: ModelSource) -> SentencePieceFile:
    where = source.where(FILE)
    pieces = read_sentencepiece(source.data(FILE, MAX_TOKENIZER_BYTES) or b"", where)
    if pieces.algorithm != BPE:
        raise ModelError(f"{where} was trained with algorithm {pieces.algorithm}; only {BPE}, BPE, is supported")
    if pieces.charsmap or pieces.removes_whitespaces:
        raise ModelError(f"{where} normalises texts, or removes repeated spaces, which is not supported")
    count = pieces.kinds.count(BYTE)
    if count != 256:
        raise ModelError(f"{where} has {count} pieces for bytes; only files with all 256 are supported")
    if len(set(pieces.texts)) < len(pieces.texts):
        raise ModelError(f"{where}: two pieces have the same text")
    return pieces


def _marked(pieces: SentencePieceFile) -> dict[int, dict[str, Any]]:
    """The pieces that texts are cut at beforehand."""
    return {
        index: {"content": text, "special": kind == CONTROL, "normalized": False}
        for index, (text, kind) in enumerate(zip(pieces.texts, pieces.kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED) and text
    }


def _post_processor(
    config: Mapping[str, Any], vocabulary: Mapping[str, int], names: Mapping[str, str]
) -> dict[str, Any] | None:
    """What a prompt begins and ends with: the beginning-of-sequence token unless the file says otherwise."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    special: dict[str, Any] = {}
    for name, default, place in (("bos", True, 0), ("eos", False, 2)):
        text = names[f"{name}_token"]
        if config.get(f"add_{name}_token", default) is True and text in vocabulary:
            single.insert(place, {"SpecialToken": {"id": text, "type_id": 0}})
            special[text] = {"id": text, "ids": [vocabulary[text]], "tokens": [text]}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
