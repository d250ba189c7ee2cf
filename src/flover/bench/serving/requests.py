"""Makes HTTP requests from samples, with the bodies of vLLM's benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flover.bench.client import Send
from flover.bench.serving.datasets import Prompt, SampleRequest
from flover.bench.serving.options import ServerOptions
from flover.errors import ConfigError
from flover.text.tokenizer import Tokenizer


def make_send(
    sample: SampleRequest, at: float, target: ServerOptions, model: str, fields: dict[str, Any], text: Prompt
) -> Send:
    """One request; `fields` are added to its body, `text` is the prompt in the backend's form."""
    body: dict[str, Any] = {"model": model, "max_tokens": sample.output_len, **fields}
    if target.is_chat:
        body["messages"] = list(text) if isinstance(text, tuple) else [{"role": "user", "content": text}]
    else:
        body["prompt"] = list(text) if isinstance(text, tuple) else text
    return Send(at, target.path, body)


def prompt_for(sample: SampleRequest, target: ServerOptions, tokenizer: Tokenizer | None) -> Prompt:
    """The prompt in the backend's form. Raises `ConfigError` if it cannot be converted."""
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
        raise ConfigError("--backend openai-chat sends texts: generated prompts and token ids need --tokenizer")
    return tokenizer.decode(ids, skip_special_tokens=False)


def make_sends(
    samples: Sequence[SampleRequest],
    times: Sequence[float],
    target: ServerOptions,
    model: str,
    fields: dict[str, Any],
    tokenizer: Tokenizer | None,
) -> list[Send]:
    """A request for each sample, at its time."""
    return [
        make_send(sample, at, target, model, fields, prompt_for(sample, target, tokenizer))
        for sample, at in zip(samples, times, strict=True)
    ]
