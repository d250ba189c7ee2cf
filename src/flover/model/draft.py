"""The draft model of `--speculative-config`, described beside the model that it drafts for."""

from __future__ import annotations

from dataclasses import replace

from flover.config.speculative import FLAG, read_speculation
from flover.errors import ConfigError
from flover.model.describe import Description, describe_model
from flover.model.shard import WHOLE

MOST_OTHER_TOKENS = 128
"""By which vocabularies of one tokenizer may differ: some are padded."""


def with_draft(model: Description, *, weights: bool = True) -> Description:
    """`model` with its draft model, if its settings name one; without `weights` none are fetched from the hub. Raises
    `ModelError`, and `ConfigError` for a model that cannot draft for this one."""
    text = model.settings.speculative_config
    speculation = None if text is None else read_speculation(text)
    if speculation is None or speculation.model is None:
        return model
    if model.settings.device == "cuda" or model.settings.tensor_parallel_size > 1:
        raise ConfigError(f"{FLAG}: a draft model runs on one CPU process: not on a GPU, not with several ranks")
    settings = replace(
        model.settings,
        model=speculation.model,
        revision=None,
        tokenizer=None,
        dtype="auto",
        quantization=speculation.quantization,
        max_model_len=None,
        speculative_config=None,
        enable_lora=False,
    )
    draft = describe_model(settings, WHOLE, weights=weights)
    if abs(draft.config.vocab_size - model.config.vocab_size) > MOST_OTHER_TOKENS:
        raise ConfigError(
            f"{FLAG}: the draft model must have the model's tokens: {speculation.model} has a vocabulary of "
            f"{draft.config.vocab_size}, {model.settings.model} one of {model.config.vocab_size}"
        )
    if draft.config.longest_max_len < model.max_len:
        raise ConfigError(
            f"{FLAG}: {speculation.model} handles at most {draft.config.longest_max_len} tokens, and --max-model-len "
            f"is {model.max_len}"
        )
    if draft.config.switch_len(model.max_len) is not None:
        raise ConfigError(
            f"{FLAG}: {speculation.model} cannot be a draft model: its rotary embeddings depend on a request's length"
        )
    return replace(model, draft=replace(draft, max_len=model.max_len))
