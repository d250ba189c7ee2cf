"""Two small tokenizers of the kinds that exist in the wild, trained here on a multilingual sample."""

from __future__ import annotations

import functools
import json
import random
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from flover.text.tokenizer import Tokenizer

SAMPLE = [
    "Once upon a time there was a little fox. The fox lived in a small house near the river.",
    "It's 12:30, isn't it? Don't worry -- we'll be there!   Three spaces.\n\n\tA tab.",
    "Der Fuchs läuft über die Straße. Größe, Äpfel, Öl und Übermut.",
    "Le garçon a mangé une pêche à Noël. Ça va très bien, merci !",
    "Лиса живёт в лесу. Она очень хитрая и быстрая.",
    "狐狸住在河边的小房子里。它很聪明。きつねは川のそばに住んでいます。여우는 강가에 산다.",
    "الثعلب يعيش قرب النهر. लोमड़ी नदी के पास रहती है।",
    "Emoji: 🦊🏠🌊 👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ naïve café ﬁne",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x ** 2}  # comment",
]
WORDS = (
    "the theatre",
    "don't we'LL",
    "naïve",
    "Ünïcode",
    "12345 007",
    "3.14",
    "日本語の文",
    "한국어",
    "😀👩\u200d👩\u200d👧",
    "\n\n",
    " \t",
    "  ",
    "x=[1,2];",
    "/path/to//file",
    "\r\n",
    "'s",
    "É",
    "e\u0301",
    "\xa0",
    "ÀB",
    "ǅ",
    "٣٤",
    "</s>",
    "<|end|>",
    "…",
    "\u200b",
)
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
KINDS = ("byte_level", "sentencepiece", "metaspace")


def odd_texts(seed: int, count: int = 2000) -> list[str]:
    """Texts of words, numbers, spaces and characters that tokenizers treat in different ways."""
    rng = random.Random(seed)
    return ["".join(rng.choice(WORDS) + rng.choice(("", " ")) for _ in range(rng.randrange(9))) for _ in range(count)]


def write_tokenizer(folder: Path, backend: tokenizers.Tokenizer, **config: object) -> Path:
    """A model folder with this tokenizer and a tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    fields = {"bos_token": "<s>", "eos_token": {"content": "</s>", "__type": "AddedToken"}} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2's kind; without a special token before the text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(SAMPLE, trainer)
    backend.add_tokens([AddedToken("<think hard>", special=False), AddedToken("東京", special=False)])
    return backend


def with_added_tokens(texts: list[str]) -> Tokenizer:
    """The byte-level tokenizer with these tokens as well."""
    backend = byte_level()
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.load(write_tokenizer(Path(folder), backend))


def sentencepiece() -> tokenizers.Tokenizer:
    """LLaMA 2's kind: byte fallback, a space before the text, <s> in front."""
    backend = _sentencepiece_bpe()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def metaspace() -> tokenizers.Tokenizer:
    """The same vocabulary behind a Metaspace pre-tokenizer and decoder."""
    backend = _sentencepiece_bpe()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement="▁", prepend_scheme="first", split=False)]
    )
    return backend


def _sentencepiece_bpe() -> tokenizers.Tokenizer:
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=450, show_progress=False, limit_alphabet=70)
    trained.train_from_iterator([line.replace(" ", "▁") for line in SAMPLE], trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = {token: i for i, token in enumerate([*tokens, *(t for t in model["vocab"] if t not in tokens)])}
    merges = [tuple(merge) for merge in model["merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token=None, fuse_unk=True))
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return backend


MAKERS = {"byte_level": byte_level, "sentencepiece": sentencepiece, "metaspace": metaspace}


@functools.cache
def backend(kind: str) -> tokenizers.Tokenizer:
    """The library's tokenizer."""
    return MAKERS[kind]()


@functools.cache
def load(kind: str) -> Tokenizer:
    """Flover's tokenizer over the same files."""
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.load(write_tokenizer(Path(folder), backend(kind)))
