"""Draws the samples of a benchmark and loads the tokenizer that some of them need."""

from __future__ import annotations

from collections.abc import Sequence

from flover.bench.serving.choose import NUM_PROMPTS, Data
from flover.bench.serving.datasets import COMMON_IDS, Dataset, Draw, SampleRequest, SharedPrefix
from flover.errors import ConfigError
from flover.model.locate import locate_model
from flover.text.tokenizer import Tokenizer


def load_tokenizer(name: str | None) -> Tokenizer | None:
    """The tokenizer of a model directory or hub name. Raises `ModelError`."""
    return None if name is None else Tokenizer.load(locate_model(name, weights=False))


def usable_ids(tokenizer: Tokenizer | None) -> Sequence[int]:
    """Token ids for generated prompts: non-special ones, or without a tokenizer ids valid in every vocabulary."""
    if tokenizer is None:
        return COMMON_IDS
    return [token for token in range(tokenizer.vocab_size) if not tokenizer.is_special(token)]


def draw_samples(
    data: Data, dataset: Dataset, tokenizer: Tokenizer | None, seed: int | None = None
) -> list[SampleRequest]:
    """The samples, drawn with the seed of `data` or another. Raises `ConfigError`."""
    num = data.num_prompts or NUM_PROMPTS
    if isinstance(dataset, SharedPrefix):
        if data.num_prompts not in (None, dataset.num_prompts):
            raise ConfigError(
                f"--num-prompts is {num}, but --gsp-num-groups x --gsp-prompts-per-group is {dataset.num_prompts}"
            )
        num = dataset.num_prompts
    draw = Draw(
        seed=data.seed if seed is None else seed,
        ids=usable_ids(tokenizer),
        path=data.dataset_path,
        shuffle=not data.disable_shuffle,
        oversample=data.oversample,
    )
    return dataset.samples(num, draw)
