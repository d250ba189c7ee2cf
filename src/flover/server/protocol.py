"""The supported fields of request bodies, OpenAI's and vLLM's, as types.

`sampling_checks.py` checks the ranges of numbers; `fields.py` has the fields that are accepted but not supported.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from flover.request import MAX_HIDDEN_SIZE
from flover.structured_outputs import StructuredOutputsParams

MAX_TEMPLATE_ARGUMENTS = 32
MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 * 2**10

Prompts = list[str] | list[list[int]]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Salt = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Priority = Annotated[int, Meta(ge=-(2**31), lt=2**31)]
Deadline = Annotated[int, Meta(ge=1, le=86_400_000)]
EncodingFormat = Literal["float", "base64"]
Dimensions = Annotated[int, Meta(ge=1, le=MAX_HIDDEN_SIZE)]
Effort = Annotated[str, Meta(pattern=r"^[a-z]{1,16}$")]
ThinkingTokens = Annotated[int, Meta(ge=-1, lt=2**31)]
Scalar = str | bool | int | float | None
Role = Literal["system", "developer", "user", "assistant", "tool"]


class ToolChoice(msgspec.Struct, kw_only=True, frozen=True):
    """Which tools may or must be called; `name` is that of the one function that must be, `allowed` are those of the
    only ones that may be, if not all may."""

    mode: Literal["none", "auto", "required", "function"]
    name: str | None = None
    allowed: tuple[str, ...] | None = None

    @property
    def forces(self) -> bool:
        """Whether the answer must be a call."""
        return self.mode in ("required", "function")


class StreamOptions(msgspec.Struct, kw_only=True, frozen=True):
    """Options of a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None

    @property
    def asks_for_usage(self) -> bool:
        """Whether any option is on."""
        return bool(self.include_usage or self.continuous_usage_stats)

    @property
    def usage_in_chunks(self) -> bool:
        """Whether every chunk has the usage so far."""
        return bool(self.include_usage and self.continuous_usage_stats)


class ResponseFormat(msgspec.Struct, kw_only=True, frozen=True):
    """What the text of the answer must be; without a constraint any text."""

    type: Literal["text", "json_object", "json_schema"]
    constraint: StructuredOutputsParams | None = None


class SamplingBody(msgspec.Struct, kw_only=True):
    """Sampling fields of all of OpenAI's bodies. None means the model's default, or else OpenAI's."""

    temperature: float | None = None
    top_p: float | None = None


class GenerationBody(SamplingBody, kw_only=True):
    """The common fields of chat and text completions. None means the model's default, or else OpenAI's."""

    model: str | None = None
    n: int | None = None
    best_of: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    echo: bool | None = None
    response_format: ResponseFormat | None = None

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
    structured_outputs: StructuredOutputsParams | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    priority: Priority | None = None
    deadline_ms: Deadline | None = None
    request_id: Name | None = None
    cache_salt: Salt | None = None

    @property
    def wanted_tokens(self) -> int | None:
        """`max_completion_tokens`, else `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionBody(GenerationBody, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Prompts
    logprobs: int | None = None


class TextPart(msgspec.Struct, kw_only=True):
    """A part of a message. Only text is supported."""

    text: str
    type: Literal["text"] = "text"


class ToolFunction(msgspec.Struct, kw_only=True):
    """A function call; `arguments` are a JSON string, or an object from clients that have parsed it."""

    name: str
    arguments: Raw = Raw(b"null")


class ToolCall(msgspec.Struct, kw_only=True):
    """An earlier tool call of the assistant in the conversation."""

    function: ToolFunction
    id: str | None = None
    type: str | None = None


class FunctionTool(msgspec.Struct, kw_only=True):
    """A function that may be called; `parameters` is the JSON Schema of its arguments."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, kw_only=True):
    """A tool; only functions are supported."""

    function: FunctionTool
    type: Literal["function"] = "function"


class Message(msgspec.Struct, kw_only=True):
    """One message of a conversation. Tool calls are passed to the template unchanged."""

    role: Role
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: Raw | None = None
    """Checked to be a list of `ToolCall`."""
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None

    @property
    def num_chars(self) -> int:
        """Approximate number of characters that a template processes."""
        content = self.content or ""
        text = len(content) if isinstance(content, str) else sum(len(part.text) for part in content)
        others = (self.name, self.tool_calls, self.tool_call_id, self.reasoning, self.reasoning_content, self.refusal)
        return text + sum(len(memoryview(other) if isinstance(other, Raw) else other) for other in others if other)

    def as_template_input(self) -> dict[str, Any]:
        """The message for chat templates, without absent fields."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        if self.tool_calls is not None:
            found["tool_calls"] = msgspec.json.decode(self.tool_calls)
        if isinstance(self.content, list):
            found["content"] = [{"type": "text", "text": part.text} for part in self.content]
        return {name: value for name, value in found.items() if value is not None}


class ChatBody(GenerationBody, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Scalar] | None = None
    reasoning_effort: Effort | None = None
    tools: Raw | None = None
    """Checked to be a list of `Tool`; passed to the template unchanged."""
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None
    thinking_token_budget: ThinkingTokens | None = None
    enable_thinking: bool | None = None
    """For the chat template, as in `chat_template_kwargs`."""

    @property
    def choice_of_tools(self) -> ToolChoice:
        """`tool_choice`, or its default."""
        if self.tools is None:
            return ToolChoice(mode="none")
        return self.tool_choice or ToolChoice(mode="auto")

    @property
    def callable_functions(self) -> dict[str, dict[str, Any]]:
        """The functions that `tool_choice` lets the model call."""
        allowed = self.choice_of_tools.allowed
        return {name: schema for name, schema in self.functions.items() if allowed is None or name in allowed}

    @property
    def functions(self) -> dict[str, dict[str, Any]]:
        """The functions of `tools`: name to JSON Schema of the arguments."""
        tools = [] if self.tools is None else msgspec.json.decode(self.tools, type=list[Tool])
        empty = {"type": "object", "properties": {}}
        return {tool.function.name: tool.function.parameters or empty for tool in tools}


class EmbeddingBody(msgspec.Struct, kw_only=True):
    """`POST /v1/embeddings`."""

    input: Prompts
    model: str | None = None
    encoding_format: EncodingFormat | None = None
    dimensions: Dimensions | None = None
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None
    priority: Priority | None = None
    deadline_ms: Deadline | None = None


class TokenizeBody(msgspec.Struct, kw_only=True):
    """`POST /tokenize`: either a prompt or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Scalar] | None = None
    return_token_strs: bool | None = None


class LoadAdapterBody(msgspec.Struct, kw_only=True):
    """`POST /v1/load_lora_adapter`."""

    lora_name: str
    lora_path: str


class UnloadAdapterBody(msgspec.Struct, kw_only=True):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: str


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]
