"""Checks that requests fit the model's context, and reduces default random lengths that do not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

from flover.bench.serving.datasets import Dataset, RandomPrompts, SampleRequest
from flover.errors import ConfigError
from flover.text.tokenizer import Tokenizer

CHAT_TEMPLATE_TOKENS = 64
"""Tokens reserved in a chat for the text that a chat template adds."""


def fit_lengths(
    dataset: Dataset, max_model_len: int | None, asked: Collection[str], reserved: int = 0
) -> tuple[Dataset, str | None]:
    """The data set with lengths that fit, and a note on the change, None without one.

    Only default lengths of random prompts (not in `asked`) change; `check_lengths` checks the others. `reserved`
    tokens of the context are kept free.
    """
    if max_model_len is None or not isinstance(dataset, RandomPrompts):
        return dataset, None
    stretch = 1 + dataset.random_range_ratio
    available = max_model_len - reserved - dataset.random_prefix_len
    asked_input, asked_output = "random_input_len" in asked, "random_output_len" in asked
    longest_input = math.ceil(dataset.random_input_len * stretch)
    longest_output = math.ceil(dataset.random_output_len * stretch)
    if longest_input + longest_output <= available or (asked_input and asked_output):
        return dataset, None
    if not asked_output:
        left = available - longest_input if asked_input else available // 2
        longest_output = min(longest_output, left)
    if not asked_input:
        longest_input = min(longest_input, available - longest_output)
    lengths = {"random_input_len": longest_input, "random_output_len": longest_output}
    changes = {
        name: math.floor(value / stretch)
        for name, value in lengths.items()
        if name not in asked and value < math.ceil(getattr(dataset, name) * stretch)
    }
    if any(value < 1 for value in changes.values()):
        return dataset, None
    fitted = dataclasses.replace(dataset, **changes)
    return fitted, (
        f"random lengths were reduced to the model's context of {max_model_len} tokens: {fitted.random_input_len} in, "
        f"{fitted.random_output_len} out (--random-input-len, --random-output-len)"
    )


def chat_tokens(samples: Sequence[SampleRequest], tokenizer: Tokenizer | None) -> int:
    """Maximum number of additional tokens of a generated prompt sent as a chat message: its text may be tokenized
    differently, and a template adds text."""
    grown = [0]
    for sample in samples if tokenizer is not None else ():
        ids = [token for token in sample.prompt if isinstance(token, int)]
        if ids and tokenizer is not None:
            text = tokenizer.decode(ids, skip_special_tokens=False)
            grown.append(len(tokenizer.encode(text, add_special_tokens=False)) - len(ids))
    return max(grown) + CHAT_TEMPLATE_TOKENS


def check_lengths(samples: Sequence[SampleRequest], max_model_len: int | None, reserved: int = 0) -> None:
    """Raises `ConfigError` with the numbers if a sample of known length cannot fit the context."""
    if max_model_len is None:
        return
    known = [(sample.prompt_len, sample.output_len) for sample in samples if sample.prompt_len is not None]
    too_long = [lengths for lengths in known if sum(lengths) + reserved > max_model_len]
    if too_long:
        prompt_len, output_len = max(too_long, key=sum)
        chat = f" and up to {reserved} more as a chat message" if reserved else ""
        raise ConfigError(
            f"{len(too_long)} of {len(samples)} requests do not fit the model's context of {max_model_len} tokens "
            f"(max_model_len): the longest has {prompt_len} prompt tokens, {output_len} output tokens{chat}; "
            "ask for shorter ones"
        )
