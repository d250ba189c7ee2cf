"""The tokenizer of a GGUF file as a tokenizer.json and a tokenizer_config.json.

Byte-level BPE ("gpt2") has its merges in the file; how a text is split before is a name there, whose expressions are
llama.cpp's (llama-vocab.cpp), in the form that the models' own tokenizer.json have. SentencePiece's BPE ("llama") has
scores: the merges are made from them as transformers' converter makes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from flover.errors import ModelError
from flover.files import shown
from flover.source.gguf_file import GgufFile, Numbers, Texts
from flover.source.sentencepiece_merges import merges_by_score

_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6
_SPACE = "▁"
_PREFIX = "tokenizer.ggml."
_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}

_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = f"{_SHORT}|{_WORD}|\\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = f"{_SHORT}|{_WORD}|\\p{{N}}|{_REST}"
_TEKKEN = f"{_CASED[0]}|{_CASED[1]}|\\p{{N}}|{_SLASH}"
_GPT4O = f"{_CASED[0]}{_SHORT}?|{_CASED[1]}{_SHORT}?|\\p{{N}}{{1,3}}|{_SLASH}"
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(expression: str) -> list[dict[str, Any]]:
    pattern = {"Regex": expression}
    return [{"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}, _byte_level(False)]


def _byte_level(words: bool) -> dict[str, Any]:
    """`words`: texts are split as GPT-2's are."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}


_GPT2 = [_byte_level(True)]
_SPLITS: Mapping[tuple[str, ...], list[dict[str, Any]]] = {
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe"): _split(_LLAMA3),
    ("qwen2", "deepseek-r1-qwen", "stablelm2"): _split(_QWEN2),
    ("gpt-2", "phi-2", "olmo"): _GPT2,
    ("starcoder", "refact", "command-r", "smollm", "exaone"): [_DIGITS, *_GPT2],
    ("tekken",): _split(_TEKKEN),
    ("gpt-4o", "llama4"): _split(_GPT4O),
}
PRE_TOKENIZERS = {name: steps for names, steps in _SPLITS.items() for name in names}
_WHOLE_FIRST = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "tekken", "gpt-4o", "llama4"})
"""Where a word that is a token as it stands is that token, whatever the merges say."""
_COMPOSED = frozenset({"qwen2", "deepseek-r1-qwen"})
"""Whose texts are normalised (NFC)."""
_BEGIN = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})
"""Whose prompts begin with the beginning-of-sequence token unless the file says otherwise."""


def tokenizer_config_of(file: GgufFile) -> dict[str, Any]:
    """Special tokens by name, and the chat template; empty if the file has no tokenizer."""
    if f"{_PREFIX}tokens" not in file.metadata:
        return {}
    texts = _listed(file, "tokens")
    found: dict[str, Any] = {"added_tokens_decoder": {}}
    for ours, theirs in _NAMES.items():
        token = _token_id(file, ours, texts.count)
        if token is not None:
            found[theirs] = texts.pick([token])[0]
            found["added_tokens_decoder"][str(token)] = {"content": found[theirs], "special": True}
    if "tokenizer.chat_template" in file.metadata:
        found["chat_template"] = file.metadata["tokenizer.chat_template"]
    return found


def tokenizer_of(file: GgufFile) -> dict[str, Any]:
    """The tokenizer.json; empty if the file has no tokenizer. Raises `ModelError` for what is damaged or unknown."""
    kind = file.metadata.get(f"{_PREFIX}model")
    if kind is None or kind == "none":
        return {}
    texts, kinds = _texts(file, "tokens"), _array(file, "token_type")
    if len(kinds) != len(texts):
        raise ModelError(f"{file.path}: there are {len(texts)} tokens, but token_type has {len(kinds)}")
    vocabulary = {text: index for index, text in enumerate(texts)}
    if len(vocabulary) < len(texts):
        raise ModelError(f"{file.path}: two tokens have the same text")
    match kind:
        case "gpt2":
            parts = _byte_level_bpe(file, vocabulary)
        case "llama":
            parts = _sentencepiece(file, texts, kinds, vocabulary)
        case _:
            raise ModelError(
                f"{file.path}: tokenizer.ggml.model {shown(kind)} is not supported; supported: gpt2, llama"
            )
    return {"version": "1.0", "added_tokens": _added(texts, kinds), "post_processor": _ends(file, texts, kind), **parts}


def _byte_level_bpe(file: GgufFile, vocabulary: dict[str, int]) -> dict[str, Any]:
    name = file.metadata.get(f"{_PREFIX}pre")
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise ModelError(
            f"{file.path}: tokenizer.ggml.pre {shown(name)} is not supported; supported: {', '.join(PRE_TOKENIZERS)}. "
            "Convert the model again with a new llama.cpp, or give --tokenizer a directory with its tokenizer.json"
        )
    merges = [tuple(merge.split(" ")) for merge in _texts(file, "merges")]
    if any(len(merge) != 2 for merge in merges):
        raise ModelError(f"{file.path}: a merge must be two texts with a space between")
    model = {"ignore_merges": name in _WHOLE_FIRST, "vocab": vocabulary, "merges": merges}
    return {
        "normalizer": {"type": "NFC"} if name in _COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[name]},
        "decoder": _byte_level(True),
        "model": {"type": "BPE", **model},
    }


def _sentencepiece(
    file: GgufFile, texts: list[str], kinds: Sequence[int], vocabulary: dict[str, int]
) -> dict[str, Any]:
    scores = _array(file, "scores")
    if len(scores) != len(texts):
        raise ModelError(f"{file.path}: there are {len(texts)} tokens, but scores has {len(scores)}")
    spaces: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders: list[dict[str, Any]] = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizers = [spaces]
    if _flag(file, "add_space_prefix", True):
        normalizers.insert(0, {"type": "Prepend", "prepend": _SPACE})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    if any(map(isnan, scores)):
        raise ModelError(f"{file.path}: a score is not a number")
    added = {text for text, kind in zip(texts, kinds, strict=True) if kind in (_CONTROL, _USER)}
    stand_ins = [text for text, kind in zip(texts, kinds, strict=True) if kind in (_UNKNOWN, _BYTE)]
    unknown = _token_id(file, "unknown", len(texts))
    model = {
        "unk_token": None if unknown is None else texts[unknown],
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": vocabulary,
        "merges": merges_by_score(texts, scores, added, stand_ins),
    }
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", **model},
    }


def _added(texts: list[str], kinds: Sequence[int]) -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": text, "special": kind != _USER, **flags}
        for index, (text, kind) in enumerate(zip(texts, kinds, strict=True))
        if kind in (_UNKNOWN, _CONTROL, _USER) and text
    ]


def _ends(file: GgufFile, texts: list[str], kind: str) -> dict[str, Any] | None:
    """What a prompt begins and ends with."""
    begins = _flag(file, "add_bos_token", kind == "llama" or file.metadata.get(f"{_PREFIX}pre") in _BEGIN)
    tokens: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    special: dict[str, Any] = {}
    for name, is_added, place in (("bos", begins, 0), ("eos", _flag(file, "add_eos_token", False), 2)):
        token = _token_id(file, name, len(texts)) if is_added else None
        if token is not None:
            tokens.insert(place, {"SpecialToken": {"id": texts[token], "type_id": 0}})
            special[texts[token]] = {"id": texts[token], "ids": [token], "tokens": [texts[token]]}
    pair = [*tokens, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": tokens, "pair": pair, "special_tokens": special}


def _texts(file: GgufFile, name: str) -> list[str]:
    return _listed(file, name).read()


def _listed(file: GgufFile, name: str) -> Texts:
    found = file.metadata.get(_PREFIX + name)
    if not isinstance(found, Texts):
        raise ModelError(f"{file.path}: {_PREFIX}{name} must be a list of texts, got {shown(found)}")
    return found


def _array(file: GgufFile, name: str) -> Sequence[Any]:
    found = file.metadata.get(_PREFIX + name)
    if not isinstance(found, Numbers):
        raise ModelError(f"{file.path}: {_PREFIX}{name} must be a list of numbers, got {shown(found)}")
    return found.read()


def _flag(file: GgufFile, name: str, default: bool) -> bool:
    found = file.metadata.get(_PREFIX + name, default)
    if not isinstance(found, bool):
        raise ModelError(f"{file.path}: {_PREFIX}{name} must be true or false, got {shown(found)}")
    return found


def _token_id(file: GgufFile, name: str, count: int) -> int | None:
    found = file.metadata.get(f"{_PREFIX}{name}_token_id")
    if found is None or found == 0xFFFFFFFF:  # llama.cpp's -1
        return None
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < count:
        raise ModelError(f"{file.path}: {_PREFIX}{name}_token_id must be one of {count} tokens, got {shown(found)}")
    return found
