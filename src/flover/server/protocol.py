"""What clients may send: OpenAI's and vLLM's request bodies. Types only; ranges are `SamplingParams`' business.

Whatever is not here is refused. Fields that Flover does not honour but that clients send by default are here with
the one value at which ignoring them changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from flover.request import MAX_LOGPROBS
from flover.text.messages import MAX_MESSAGES

MAX_PROMPTS = 256
"""Most prompts in one completion request; each counts as an open request."""


class Body(BaseModel):
    """Strict: no unknown fields, no numbers in strings, no true for 1, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Prompts = list[str] | list[list[int]]


def _check_prompt(value: Any) -> Prompts:
    """Always a list of prompts. By hand, since pydantic would report each of a million wrong items."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise PydanticCustomError(
            "prompt", "a prompt must be a string, a list of token ids, or a non-empty list of those"
        )
    if all(type(item) is int for item in value):
        return [value]
    if len(value) > MAX_PROMPTS:
        raise PydanticCustomError("prompt", "at most {most} prompts in one request", {"most": MAX_PROMPTS})
    if all(isinstance(item, str) for item in value):
        return value
    if all(isinstance(item, list) and all(type(token) is int for token in item) for item in value):
        return value
    raise PydanticCustomError("prompt", "all prompts of a list must be strings, or all must be lists of token ids")


Prompt = Annotated[
    Prompts, PlainValidator(_check_prompt, json_schema_input_type=str | list[str] | list[int] | list[list[int]])
]
Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=64)]
Salt = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=128)]


class StreamOptions(Body):
    """What a stream carries beside text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Body):
    """The only format there is."""

    type: Literal["text"]


class GenerationBody(Body):
    """What chat and text completions have in common. None means: the model's default, or else OpenAI's."""

    model: str | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    echo: bool | None = None

    # vLLM's
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: Logprobs | None = None
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    priority: int | None = Field(None, ge=-(2**31), lt=2**31)
    request_id: Name | None = None
    cache_salt: Salt | None = None

    # Harmless
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    response_format: TextFormat | None = None


class CompletionBody(GenerationBody):
    """`POST /v1/completions`."""

    prompt: Prompt
    logprobs: Logprobs | None = None

    # Harmless at one value
    best_of: int | None = None
    suffix: Literal[""] | None = None


class TextPart(Body):
    """A part of a message. Only text is understood."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a conversation. What only some templates show (tool calls) is passed on as it is."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    # Other fields that servers answer with, and clients send back
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None

    def as_template_input(self) -> dict[str, Any]:
        """The message as chat templates want it: absent fields absent."""
        return self.model_dump(exclude_none=True, exclude={"annotations"})


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
Scalar = str | bool | int | float | None
TemplateArguments = Annotated[dict[str, Scalar], Field(max_length=32)]


class ChatBody(GenerationBody):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None

    # Harmless at one value
    tools: list[Any] | None = Field(None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = Field(None, max_length=0)
    function_call: Literal["none", "auto"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    documents: list[Any] | None = Field(None, max_length=0)
    chat_template: None = None
    reasoning_effort: None = None
    include_reasoning: bool | None = None


class TokenizeBody(Body):
    """`POST /tokenize`: either a prompt or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateArguments | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]
