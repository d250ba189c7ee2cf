"""Constraints on the bundled model's vocabulary, followed byte by byte."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

import flover
from flover.grammar.compiler import Compiler
from flover.grammar.state import Words
from flover.structured_outputs import StructuredOutputsParams
from flover.text.tokenizer import Tokenizer

MODEL = Path(flover.__file__).parent / "assets" / "flover-tiny"
TOKENIZER = Tokenizer.load(MODEL)
VOCABULARY = TOKENIZER.vocabulary
EOS = 1


@functools.cache
def compiler() -> Compiler:
    """One for all tests that leave it as it was."""
    return Compiler(VOCABULARY, len(VOCABULARY.tokens), [EOS])


def allowed(words: Words) -> list[int]:
    """The ids that a mask allows."""
    found: list[int] = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()
    return [token for token in found if token < len(VOCABULARY.tokens)]


def walk(constraint: StructuredOutputsParams, text: str) -> bool:
    """Whether the masks lead through all bytes of `text` and allow the end after it, and only there if the answer can
    end in no other place."""
    state = compiler().state(constraint, ())
    for byte in text.encode():
        token = VOCABULARY.tokens.index(bytes([byte]))
        if token not in allowed(state.words()):
            return False
        state.add(token)
    return EOS in allowed(state.words())
