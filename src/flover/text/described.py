"""Makes a tokenizer of the content of a tokenizer.json that is in memory, without writing it as JSON.

GGUF files of 262,144 tokens have half a million merges: as JSON they take three times the memory and twice the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from tokenizers import AddedToken, Tokenizer, models

from flover.source.sentencepiece_merges import Merges


def make_bpe(described: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer, whose model is byte-pair encoding; vocabulary and merges are empty afterwards. Raises what the
    library raises for content that it refuses."""
    options = {name: value for name, value in described["model"].items() if name != "type"}
    options["merges"] = _LastRead(options["vocab"], options["merges"])
    made = Tokenizer(models.BPE(**options))
    small = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
    steps = Tokenizer.from_str(json.dumps({**described, **small}))
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        step = getattr(steps, name)
        if step is not None:
            setattr(made, name, step)
    for special in (True, False):
        add = made.add_special_tokens if special else made.add_tokens
        flags = [token for token in described["added_tokens"] if token["special"] is special]
        add([AddedToken(token["content"], special=special, normalized=False) for token in flags])
    return made


@dataclass(frozen=True, slots=True)
class _LastRead(Sequence[tuple[str, str]]):
    """Merges that free vocabulary and merges as the library has read them: it copies first one, then the other, and
    then takes most memory, to arrange its copies."""

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]] | Merges

    def __len__(self) -> int:
        return len(self.merges)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.vocabulary.clear()
        yield from self.merges
        self.merges.clear()

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[str, str]]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, str] | Sequence[tuple[str, str]]:
        return self.merges[index]
