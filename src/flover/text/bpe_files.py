"""Converts byte-level BPE tokenizers saved as vocab.json and merges.txt to the content of a tokenizer.json.

GPT-2's and Qwen 2's classes are supported. Their pre-tokenization is in no file, so it is data here (from transformers'
classes of the same names).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flover.errors import ModelError, shown
from flover.generation_config import MAX_TOKENIZER_BYTES
from flover.source import ModelSource
from flover.text.files import TokenizerFiles

_QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class BpeClass:
    """Pre-tokenization of a tokenizer class; `pieces` is its regular expression, None for GPT-2's."""

    default_token: str
    """The default of special tokens that no file names."""
    pieces: str | None = None
    normalizer: str | None = None

    def pre_tokenizer(self, *, add_prefix_space: bool) -> dict[str, Any]:
        """The `pre_tokenizer` section of a tokenizer.json."""
        step = {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True}
        if self.pieces is None:
            return step | {"use_regex": True}
        split = {"type": "Split", "pattern": {"Regex": self.pieces}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, step | {"use_regex": False}]}


Kind = TypeVar("Kind")
KINDS: Mapping[str, BpeClass] = {
    "GPT2Tokenizer": BpeClass("<|endoftext|>"),
    "Qwen2Tokenizer": BpeClass("<|endoftext|>", _QWEN2_PIECES, "NFC"),
}
_OF_MODEL_TYPE = {"gpt2": "GPT2Tokenizer", "gptj": "GPT2Tokenizer"} | dict.fromkeys(
    ("qwen2", "qwen3"), "Qwen2Tokenizer"
)


def has_bpe_files(source: ModelSource) -> bool:
    """Whether both files exist."""
    return source.has("vocab.json") and source.has("merges.txt")


def describe_bpe(source: ModelSource, files: TokenizerFiles) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises `ModelError` if a file is damaged or the class is not supported."""
    config = source.document("tokenizer_config.json")
    kind = tokenizer_class(source, config, KINDS, _OF_MODEL_TYPE, "vocab.json and merges.txt are read")
    vocabulary = source.document("vocab.json", MAX_TOKENIZER_BYTES)
    if not all(type(token) is int and 0 <= token < 2**32 for token in vocabulary.values()):
        raise ModelError(f"{source.where('vocab.json')} must hold a token id for each token")
    add_prefix_space = config.get("add_prefix_space") is True
    return {
        "version": "1.0",
        "added_tokens": added_tokens(
            source, config, vocabulary, files.special_texts | {kind.default_token}, {}, "vocab.json"
        ),
        "normalizer": None if kind.normalizer is None else {"type": kind.normalizer},
        "pre_tokenizer": kind.pre_tokenizer(add_prefix_space=add_prefix_space),
        "post_processor": _post_processor(config, vocabulary, files, kind),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": _merges(source)},
    }


def _merges(source: ModelSource) -> list[list[str]]:
    """Pairs of tokens in order of merging. A first line that begins with #version is skipped."""
    lines = (source.text("merges.txt", MAX_TOKENIZER_BYTES) or "").split("\n")
    pairs = [line.split(" ") for line in lines[lines[0].startswith("#version") :] if line]
    wrong = next((i for i, pair in enumerate(pairs) if len(pair) != 2), None)
    if wrong is not None:
        raise ModelError(
            f"{source.where('merges.txt')}: each line must be two tokens with a space between them, got "
            f"{shown(pairs[wrong])}"
        )
    return pairs


def tokenizer_class(
    source: ModelSource,
    config: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    of_model_type: Mapping[str, str],
    read: str,
) -> Kind:
    """What `kinds` has for the model's tokenizer class, which config.json's type says where tokenizer_config.json does
    not. Raises `ModelError` for another class; `read` is the beginning of what it says."""
    name = config.get("tokenizer_class")
    if name is None:
        name = of_model_type.get(str(source.document("config.json").get("model_type")))
    kind = kinds.get(str(name).removesuffix("Fast"))
    if kind is None:
        raise ModelError(
            f"no tokenizer.json in {source.path}; {read} for tokenizer_class {' and '.join(kinds)}, this one is "
            f"{shown(name)}: make tokenizer.json with transformers, AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    return kind


def added_tokens(
    source: ModelSource,
    config: Mapping[str, Any],
    vocabulary: Mapping[str, int],
    special: frozenset[str],
    known: Mapping[int, dict[str, Any]],
    after: str,
) -> list[dict[str, Any]]:
    """Added tokens, which are matched before pre-tokenization, by id: those that are `known` and those of the files.
    `special` are the texts of special ones, `after` is the file that has the vocabulary. Raises `ModelError` if ids
    leave a gap."""
    added = dict(known)
    for text, token in source.document("added_tokens.json").items():
        if type(token) is int:
            added[token] = {"content": text}
    decoder = config.get("added_tokens_decoder")
    for token, entry in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and token.isascii() and token.isdigit():
            added[int(token)] = entry
    for text in special & vocabulary.keys():
        added.setdefault(vocabulary[text], {"content": text, "special": True})
    size = len(vocabulary)
    for token in sorted(added):
        expected = vocabulary.get(added[token]["content"], size)
        if token != expected:
            name = shown(added[token]["content"])
            raise ModelError(
                f"{source.path}: the added token {name} has id {token}, after {after} it must be {expected}"
            )
        size += expected == size
    return [_added_token(token, added[token], special) for token in sorted(added)]


def _added_token(token: int, entry: Mapping[str, Any], special: frozenset[str]) -> dict[str, Any]:
    flags = {name: entry.get(name) is True for name in _FLAGS}
    is_special = flags["special"] or entry["content"] in special
    normalized = entry.get("normalized", not is_special) is True
    return {"id": token, "content": entry["content"], **flags, "special": is_special, "normalized": normalized}


def _post_processor(
    config: Mapping[str, Any], vocabulary: Mapping[str, int], files: TokenizerFiles, kind: BpeClass
) -> dict[str, Any] | None:
    """The post-processor that adds the beginning-of-sequence token, if `add_bos_token` is set."""
    text = files.special_tokens.get("bos_token", kind.default_token)
    if config.get("add_bos_token") is not True or text not in vocabulary:
        return None
    first, rest = {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, rest],
        "pair": [first, rest, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [vocabulary[text]], "tokens": [text]}},
    }
