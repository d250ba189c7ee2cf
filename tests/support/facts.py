"""The facts of a model that a test makes up."""

from __future__ import annotations

from typing import Any

from flover.request import ModelFacts


def model_facts(**changes: Any) -> ModelFacts:
    """Of a model of 300 tokens, 200 in a sequence, with pages of 16; what a test is about is in `changes`."""
    plain: dict[str, Any] = {
        "model": "toy",
        "architecture": "Toy",
        "dtype": "float32",
        "vocab_size": 300,
        "max_model_len": 200,
        "pool_tokens": 4096,
        "page_size": 16,
        "eos_ids": [],
    }
    return ModelFacts(**plain | changes)
