"""Damaged GGUF files: an error that names the file, or a model; never a crash, and no memory beyond what the whole file
takes."""

from __future__ import annotations

import random
import resource
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf
from support.checkpoints import make_checkpoint

from flover.errors import ConfigError, ModelError
from flover.source.gguf_file import read_header
from flover.text.tokenizer import Tokenizer
from model.driver import load

RANDOM_MUTATIONS = 100
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
TOKENS += ["▁", *"etaoinshrdlucmfwypvbgkqjxz", "▁t", "he", "▁the"]
TOKENIZER: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": [-float(index) for index in range(len(TOKENS))],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(TOKENS) - 259)],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": True,
}


class Fields:
    """Where each field of a GGUF file lies, by kind, as ggml's docs/gguf.md has them: (place, bytes)."""

    SIZES = (1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8)

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.note("magic", 4)
        self.note("version", 4)
        tensors, keys = self.note("count of tensors", 8), self.note("count of keys", 8)
        for _ in range(keys):
            self.text("key")
            self.value(self.note("type of a value", 4), "value")
        for _ in range(tensors):
            self.text("name")
            for _ in range(self.note("count of dimensions", 4)):
                self.note("dimension", 8)
            self.note("type of a tensor", 4)
            self.note("offset", 8)

    def note(self, kind: str, size: int) -> int:
        self.places.setdefault(kind, []).append((self.at, size))
        self.at += size
        return int.from_bytes(self.raw[self.at - size : self.at], "little")

    def text(self, kind: str) -> None:
        self.note(f"characters of a {kind}", self.note(f"length of a {kind}", 8))

    def value(self, kind: int, name: str) -> None:
        if kind == 8:
            self.text(name)
        elif kind == 9:
            kind, count = self.note("type of an array", 4), self.note("count of an array", 8)
            for _ in range(count):
                self.value(kind, "value in an array")
        else:
            self.note(name, self.SIZES[kind])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gguf")
    path = make_checkpoint(directory / "model", vocab_size=len(TOKENS))
    return write_gguf(path, directory / "m.gguf", "llama", metadata=TOKENIZER)


def test_every_kind_of_field_damaged(file: Path, tmp_path: Path) -> None:
    """The first of each kind, one in the middle and the last; each as nothing, as the largest number of its size, one
    more, and with its highest bit turned."""
    whole = file.read_bytes()
    fields = Fields(whole)
    outcomes: dict[str, list[str]] = {kind: [] for kind in fields.places}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, places in fields.places.items():
        longer = [place for place in places if place[1]]
        for at, size in {longer[0], longer[len(longer) // 2], longer[-1]}:
            old = int.from_bytes(whole[at : at + size], "little")
            most = 2 ** (8 * size) - 1
            for value in {0, most, (old + 1) & most, old ^ (most // 2 + 1)} - {old}:
                raw = whole[:at] + value.to_bytes(size, "little") + whole[at + size :]
                outcomes[kind].append(_outcome(tmp_path / "damaged.gguf", raw))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    told = [text for kind in outcomes.values() for text in kind if text != "loaded"]
    assert sum(map(len, outcomes.values())) >= 100 and all("damaged.gguf" in text and len(text) < 2500 for text in told)
    assert not [kind for kind, found in outcomes.items() if set(found) == {"loaded"}]
    for kind in ("magic", "version", "count of tensors", "count of keys", "type of a tensor", "offset", "dimension"):
        assert "loaded" not in outcomes[kind], kind


def test_bytes_damaged_anywhere_in_the_header(file: Path, tmp_path: Path) -> None:
    """Replaced by random, huge or zero ones, and files cut short."""
    whole = file.read_bytes()
    header = min(stored.start for stored in read_header(file).tensors)
    damaged = tmp_path / "damaged.gguf"
    assert _outcome(damaged, whole) == "loaded"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = [_outcome(damaged, _damaged(whole, header, random.Random(seed))) for seed in range(RANDOM_MUTATIONS)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    errors = [text for text in outcomes if text != "loaded"]
    assert len(errors) > RANDOM_MUTATIONS // 3
    assert all(str(damaged) in text and len(text) < 2500 for text in errors)


def _damaged(whole: bytes, header: int, rng: random.Random) -> bytes:
    raw = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        size = rng.choice((1, 1, 4, 8))
        value = rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, rng.getrandbits(64)))
        at = rng.randrange(rng.choice((24, 400, header)))
        raw[at : at + size] = value.to_bytes(8, "little")[:size]
    return bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.1 else raw)


def _outcome(file: Path, raw: bytes) -> str:
    file.write_bytes(raw)
    try:
        Tokenizer.load(file)
        load(file)
    except (ModelError, ConfigError) as error:
        return str(error)
    return "loaded"
