"""Tokenizers of GGUF files: the ids of the tokenizer.json that the file was made from, and of SentencePiece's rule."""

from __future__ import annotations

import json
import random
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from text_samples import odd_texts
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from flover.errors import ModelError
from flover.generation_config import read_eos_ids
from flover.source import open_source, sentencepiece_merges
from flover.text.tokenizer import Tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(expression: str) -> Any:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(expression), "isolated"), level])


SPLITS: dict[str, Any] = {
    "llama-bpe": split(LLAMA3),
    "qwen2": split(QWEN2),
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "starcoder": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}


def trained(pre: str) -> tokenizers.Tokenizer:
    """A byte-level BPE of a few hundred merges."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    made.pre_tokenizer, made.decoder = SPLITS[pre], decoders.ByteLevel()
    if pre == "qwen2":
        made.normalizer = tokenizers.normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(odd_texts(0), trainer)
    made.add_tokens(["<tool>"])
    return made


def write(path: Path, **metadata: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        key = "tokenizer.chat_template" if key == "chat_template" else f"tokenizer.ggml.{key}"
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def write_bpe(path: Path, made: tokenizers.Tokenizer, pre: str, **metadata: Any) -> Path:
    model = json.loads(made.to_str())["model"]
    tokens = [made.id_to_token(index) for index in range(made.get_vocab_size())]
    kinds = [3 if token in ("<|end|>", "<|im_end|>") else 4 if token == "<tool>" else 1 for token in tokens]
    merges = [" ".join(merge) for merge in model["merges"]]
    return write(path, model="gpt2", pre=pre, tokens=tokens, token_type=kinds, merges=merges, **metadata)


@pytest.mark.parametrize("pre", SPLITS)
def test_byte_level_tokens_are_those_of_the_tokenizer_json(pre: str, tmp_path: Path) -> None:
    made = trained(pre)
    ours = Tokenizer.load(write_bpe(tmp_path / "m.gguf", made, pre, add_bos_token=False))
    for text in [*odd_texts(1), "a<tool>b<|im_end|>"]:
        ids = ours.encode(text)
        assert ids == made.encode(text).ids, text
        assert ours.decode(ids, skip_special_tokens=False) == made.decode(ids, skip_special_tokens=False)
    assert ours.special_ids == {0, 1}


def sentencepiece(text: str, scores: dict[str, float], added: list[str], ids: dict[str, int]) -> list[int]:
    """SentencePiece's BPE: of all neighbours that make a token those with the best score are joined first."""
    for name in added:
        if name in text:
            before, _, after = text.partition(name)
            parts = [sentencepiece(before, scores, added, ids), [ids[name]], sentencepiece(after, scores, added, ids)]
            return [token for part in parts for token in part]
    pieces = list(text)
    while True:
        pairs = [(scores.get(a + b, -1e9), -at) for at, (a, b) in enumerate(pairwise(pieces))]
        best, at = max(pairs, default=(-1e9, 0))
        if best == -1e9:
            break
        pieces[-at : -at + 2] = [pieces[-at] + pieces[-at + 1]]
    names = [[piece] if piece in ids else [f"<0x{byte:02X}>" for byte in piece.encode()] for piece in pieces]
    return [ids[name] for group in names for name in group]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokens_are_those_of_its_scores(prefix: bool, tmp_path: Path) -> None:
    rng = random.Random(3)
    letters = sorted(
        {char for text in odd_texts(0) for char in text.replace(" ", "▁") if char.isascii() or char in "▁日ü"}
    )
    normal = [
        *letters,
        "th",
        "the",
        "▁the",
        "▁▁",
        "at",
        "eat",
        "▁thea",
        "tre",
        "34",
        "12",
        "123",
        "▁d",
        "on",
        "▁don",
        "we",
    ]
    tokens = ["<unk>", "<s>", "</s>", "\n\n", *(f"<0x{byte:02X}>" for byte in range(256)), *normal]
    scores = (
        [0.0] * 260 + [-1e3] * len(letters) + [-float(n) for n in rng.sample(range(90), len(normal) - len(letters))]
    )
    kinds = [2, 3, 3, 4, *[6] * 256, *[1] * len(normal)]
    file = write(
        tmp_path / "m.gguf", model="llama", tokens=tokens, scores=scores, token_type=kinds, bos_token_id=1,
        eos_token_id=2, unknown_token_id=0, add_space_prefix=prefix, chat_template="{{ messages }}",
    )  # fmt: skip
    ours, ids = Tokenizer.load(file), {token: index for index, token in enumerate(tokens)}
    joined = {token: score for token, score in zip(tokens, scores, strict=True) if len(token) > 1 and token in normal}
    for text in odd_texts(2):
        if "</s>" in text or "\n\n" in text or not text:
            continue  # a text beside an added token begins with a space of its own there
        spaced = ("▁" if prefix else "") + text.replace(" ", "▁")
        assert ours.encode(text) == [1, *sentencepiece(spaced, joined, [], ids)], text
        assert ours.decode(ours.encode(text)) == text
    assert ours.chat_template == "{{ messages }}"
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def plain_merges(texts: list[str], scores: list[float], added: set[str]) -> list[tuple[str, str]]:
    """What `generate_merges` of transformers does: every cut of every token, looked up as it stands."""
    ids = {text: index for index, text in enumerate(texts) if text not in added}
    merges: list[tuple[str, str]] = []
    for _, group in groupby(sorted(ids, key=lambda text: -scores[ids[text]]), lambda text: scores[ids[text]]):
        cuts = [(text[:cut], text[cut:]) for text in group for cut in range(len(text) - 1, 0, -1)]
        pairs = [pair for pair in cuts if pair[0] in ids and pair[1] in ids]
        merges += sorted(pairs, key=lambda pair: (-len(pair[0]), -len(pair[1])))
    return merges


def make(tokens: list[str], merges: Any) -> tokenizers.Tokenizer:
    options = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return tokenizers.Tokenizer(models.BPE({text: index for index, text in enumerate(tokens)}, merges, **options))


@pytest.mark.parametrize("letters", ["ab", "abc▁", "ab▁日😀\0"])
def test_few_merges_give_the_tokens_that_those_of_every_cut_do(letters: str) -> None:
    rng = random.Random(5)
    stand_ins = ["<unk>", *(f"<0x{byte:02X}>" for byte in b"c\xe6\x97\xa5")]
    words = {"".join(rng.choices(letters, k=rng.randrange(1, 9))) for _ in range(500)} | {"a" * 300, "a" * 150}
    odd = {name + word for name in stand_ins for word in ("a", "ab")} | {"a<unk>", *stand_ins}
    for missing in ("", letters[1]):  # as characters that are no token have stand-ins, these may merge too
        tokens = [*sorted((words | odd | set(letters)) - {missing}), ""]
        rng.shuffle(tokens)
        scores = [-float(rng.randrange(100)) for _ in tokens]
        added = set(rng.sample(sorted(words - set(letters)), 20))
        every = plain_merges(tokens, scores, added)
        found = sentencepiece_merges.merges_by_score(tokens, scores, added, stand_ins)
        at = {pair: index for index, pair in enumerate(every)}
        places = [at[pair] for pair in found]
        assert places == sorted(places) and 4 < len(found) < len(every)
        assert [found[1], *found[2:4]] == list(found)[1:4]
        few, all_of_them = make(tokens, found), make(tokens, every)
        for _ in range(300):
            text = "".join(rng.choices(letters, k=rng.randrange(1, 60)))
            assert few.encode(text).ids == all_of_them.encode(text).ids, text
    assert list(sentencepiece_merges.merges_by_score(["x"], [0.0], {"x"}, [])) == []


def test_texts_made_to_have_the_same_hash_are_refused() -> None:
    """Of Thue and Morse's sequence and its opposite, the hashes are the same for every base modulo 2^64."""
    halves = ["0", "1"]
    for _ in range(11):
        halves = [halves[0] + halves[1], halves[1] + halves[0]]
    texts = ["".join(halves[at >> bit & 1] for bit in range(10)) for at in range(2**10)]
    with pytest.raises(ValueError, match="too many of its tokens have the same hash"):
        sentencepiece_merges.merges_by_score(texts, [0.0] * len(texts), set(), [])


def test_an_engine_makes_no_tokenizer_to_know_what_ends_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(write_bpe(tmp_path / "m.gguf", trained("gpt-2"), "gpt-2", eos_token_id=1))
    monkeypatch.setattr("flover.source.gguf.tokenizer_of", lambda file: pytest.fail("it was made"))
    config = {"eos_token_id": [1, 0]}
    monkeypatch.setattr("flover.source.gguf.config_of", lambda *_: config)
    assert read_eos_ids(source, source, 600) == (1, 0)


def test_ends_of_answers_come_from_the_metadata_and_from_the_texts(tmp_path: Path) -> None:
    made = trained("gpt-2")
    file = write_bpe(tmp_path / "m.gguf", made, "gpt-2", eos_token_id=0, bos_token_id=0, add_bos_token=True)
    assert Tokenizer.load(file).encode("a")[0] == 0
    source = open_source(file)
    assert source.document("generation_config.json") == {"eos_token_id": [0, 1]}
    with pytest.raises(ModelError, match="token_embd"):
        read_eos_ids(source, source, 600)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "spiral"}, r"tokenizer.ggml.pre 'spiral' is not supported; supported: llama3"),
        ({"model": "none"}, r"m.gguf has no tokenizer; --tokenizer can name"),
        ({"model": "bert"}, r"tokenizer.ggml.model 'bert' is not supported"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "two tokens have the same text"),
        ({"token_type": [1]}, r"there are 2 tokens, but token_type has 1"),
        ({"merges": ["a b c"]}, "a merge must be two texts"),
        ({"eos_token_id": 5}, "eos_token_id must be one of 2 tokens, got 5"),
        ({"add_bos_token": 1}, "add_bos_token must be true or false"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    good = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b"], "token_type": [1, 1], "merges": ["a b"]}
    with pytest.raises(ModelError, match=message):
        Tokenizer.load(write(tmp_path / "m.gguf", **(good | changes)))
