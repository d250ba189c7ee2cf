"""The bodies of Anthropic's API, as types."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from flover.server.protocol import Effort


class TextBlock(msgspec.Struct, kw_only=True, tag="text", tag_field="type"):
    """Text."""

    text: str


class ThinkingBlock(msgspec.Struct, kw_only=True, tag="thinking", tag_field="type"):
    """Earlier reasoning of the assistant."""

    thinking: str


class RedactedBlock(msgspec.Struct, kw_only=True, tag="redacted_thinking", tag_field="type"):
    """Reasoning that cannot be read: left out."""


class ToolUseBlock(msgspec.Struct, kw_only=True, tag="tool_use", tag_field="type"):
    """An earlier tool call of the assistant."""

    id: str
    name: str
    input: dict[str, Any]


class ImageBlock(msgspec.Struct, kw_only=True, tag="image", tag_field="type"):
    """Refused: only text is supported."""


class DocumentBlock(msgspec.Struct, kw_only=True, tag="document", tag_field="type"):
    """Refused: only text is supported."""


class ToolResultBlock(msgspec.Struct, kw_only=True, tag="tool_result", tag_field="type"):
    """The result of a tool call."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None


Block = TextBlock | ThinkingBlock | RedactedBlock | ToolUseBlock | ToolResultBlock | ImageBlock | DocumentBlock


class InputMessage(msgspec.Struct, kw_only=True):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system"]
    """System: instructions from here on, which Claude Code sends after the user's message."""
    content: str | list[Block]


class InputTool(msgspec.Struct, kw_only=True):
    """A function that may be called. Tools that Anthropic's servers run have a `type` and no schema."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None


class InputChoice(msgspec.Struct, kw_only=True):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, kw_only=True):
    """Whether reasoning is asked for; `budget_tokens` are the most that it may come to, where it is enabled."""

    type: Literal["disabled", "adaptive", "enabled"]
    budget_tokens: int | None = None


class OutputFormat(msgspec.Struct, kw_only=True):
    """What the text of the answer must be."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, kw_only=True):
    """How much effort the answer is worth, and what its text must be."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    messages: list[InputMessage]
    model: str | None = None
    system: str | list[TextBlock] | None = None
    tools: list[InputTool] | None = None
    tool_choice: InputChoice | None = None
    thinking: Thinking | None = None
    cache_control: Any = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older place of `output_config.format`."""


class MessagesBody(CountBody, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: int
    stop_sequences: tuple[str, ...] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
