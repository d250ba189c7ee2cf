"""Do the requests of a benchmark fit the model's context? Random lengths that were not asked for are made to."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

from flover.bench.serving.datasets import Dataset, RandomPrompts, Sample
from flover.errors import ConfigError
from flover.text.tokenizer import Tokenizer

CHAT_TEMPLATE_TOKENS = 64
"""Room that is left in a chat for what a chat template puts around a prompt."""


def fit_lengths(
    dataset: Dataset, max_model_len: int | None, asked: Collection[str], reserved: int = 0
) -> tuple[Dataset, str | None]:
    """The data set with lengths that fit, and a line that says what was changed, None if nothing was.

    Only lengths of random prompts that are not named in `asked` change; others are left to `check_lengths`. `reserved`
    tokens of the context are kept free.
    """
    if max_model_len is None or not isinstance(dataset, RandomPrompts):
        return dataset, None
    stretch = 1 + dataset.random_range_ratio
    room = max_model_len - reserved - dataset.random_prefix_len
    asked_input, asked_output = "random_input_len" in asked, "random_output_len" in asked
    longest_input = math.ceil(dataset.random_input_len * stretch)
    longest_output = math.ceil(dataset.random_output_len * stretch)
    if longest_input + longest_output <= room or (asked_input and asked_output):
        return dataset, None
    if not asked_output:
        left = room - longest_input if asked_input else room // 2
        longest_output = min(longest_output, left)
    if not asked_input:
        longest_input = min(longest_input, room - longest_output)
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
        f"random lengths were made to fit the model's context of {max_model_len} tokens: {fitted.random_input_len} in, "
        f"{fitted.random_output_len} out (--random-input-len, --random-output-len)"
    )


def chat_tokens(samples: Sequence[Sample], tokenizer: Tokenizer | None) -> int:
    """Most tokens that a made prompt may have beyond its own length when it is sent as the text of a chat message:
    its text may not come back as the same ids, and a template is put around it."""
    grown = [0]
    for sample in samples if tokenizer is not None else ():
        ids = [token for token in sample.prompt if isinstance(token, int)]
        if ids and tokenizer is not None:
            text = tokenizer.decode(ids, skip_special_tokens=False)
            grown.append(len(tokenizer.encode(text, add_special_tokens=False)) - len(ids))
    return max(grown) + CHAT_TEMPLATE_TOKENS


def check_lengths(samples: Sequence[Sample], max_model_len: int | None, reserved: int = 0) -> None:
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
