"""Samples as requests to a server: the bodies that vLLM's benchmark sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flover.bench.client import Send
from flover.bench.serving.datasets import Prompt, Sample
from flover.bench.serving.options import Target
from flover.errors import ConfigError
from flover.text.tokenizer import Tokenizer


def make_send(sample: Sample, at: float, target: Target, model: str, fields: dict[str, Any], text: Prompt) -> Send:
    """One request; `fields` go into its body as they are, `text` is the prompt in the backend's form."""
    body: dict[str, Any] = {"model": model, "max_tokens": sample.output_len, **fields}
    if target.is_chat:
        body["messages"] = list(text) if isinstance(text, tuple) else [{"role": "user", "content": text}]
    else:
        body["prompt"] = list(text) if isinstance(text, tuple) else text
    return Send(at, target.path, body)


def prompt_for(sample: Sample, target: Target, tokenizer: Tokenizer | None) -> Prompt:
    """The prompt as the backend takes it. Raises `ConfigError` if it cannot be had in that form."""
    prompt = sample.prompt
    if isinstance(prompt, str):
        return prompt
    ids = [token for token in prompt if isinstance(token, int)]
    if not target.is_chat:
        if not ids:
            raise ConfigError("messages are for --backend openai-chat; completions need a prompt")
        return tuple(ids)
    if not ids:
        return prompt
    if tokenizer is None:
        raise ConfigError("--backend openai-chat sends texts: made prompts and token ids need --tokenizer")
    return tokenizer.decode(ids, skip_special_tokens=False)


def make_sends(
    samples: Sequence[Sample],
    times: Sequence[float],
    target: Target,
    model: str,
    fields: dict[str, Any],
    tokenizer: Tokenizer | None,
) -> list[Send]:
    """A request for each sample, at its time."""
    return [
        make_send(sample, at, target, model, fields, prompt_for(sample, target, tokenizer))
        for sample, at in zip(samples, times, strict=True)
    ]
