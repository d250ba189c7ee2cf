"""From Anthropic's bodies to conversations. Pure functions; all raise `RequestError` for what is not supported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Raw

from flover.config import Limits, flag_name
from flover.errors import named, too_many
from flover.server.anthropic.bodies import (
    CountBody,
    DocumentBlock,
    ImageBlock,
    InputMessage,
    InputTool,
    MessagesBody,
    OutputConfig,
    RedactedBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from flover.server.protocol import ChatBody, Message, ToolChoice
from flover.server.read_structured import read_format
from flover.server.read_tools import check_tools, read_tools
from flover.server.read_values import as_raw, refuse

_SAME = tuple(
    name
    for name in MessagesBody.__struct_fields__
    if name in ChatBody.__struct_fields__ and name not in CountBody.__struct_fields__
)
"""Fields of how to generate that chat completions have under the same name."""
_ACCOUNTS = "x-anthropic-billing-header:"
_CHOICES: dict[str, Any] = {"auto": "auto", "none": "none", "any": "required", "tool": "function"}


def to_chat(body: CountBody, limits: Limits) -> ChatBody:
    """The conversation that a body asks about. One that ends with a message of the assistant is continued there."""
    if len(body.messages) > limits.max_messages:
        raise too_many("messages", limits.max_messages, "messages", flag=flag_name("max_messages"))
    if not body.messages:
        refuse("messages", "messages is an empty list: at least one message is needed")
    system = _system(body.system)
    messages = [Message(role="system", content=system)] if system else []
    names: dict[str, str] = {}
    for number, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{number}]", names)
        if len(messages) > limits.max_messages:
            most = f"at most {limits.max_messages} ({flag_name('max_messages')})"
            refuse("messages", f"messages with their tool results and system may come to {most}")
    chat = ChatBody(model=body.model, messages=messages, tools=_tools(body.tools))
    chat.continue_final_message = messages[-1].role == "assistant" and messages[-1].tool_calls is None
    if body.tool_choice is not None:
        if body.tool_choice.type == "tool" and body.tool_choice.name is None:
            refuse("tool_choice", "tool_choice.name is required")
        chat.tool_choice = ToolChoice(mode=_CHOICES[body.tool_choice.type], name=body.tool_choice.name)
        chat.parallel_tool_calls = not body.tool_choice.disable_parallel_tool_use
    config = body.output_config or OutputConfig()
    form = config.format or body.output_format
    chat.reasoning_effort = config.effort
    if form is not None:
        wanted = {"type": form.type, "json_schema": {"schema": form.schema}}
        chat.response_format = read_format(as_raw(wanted), "output_config.format")
    if isinstance(body, MessagesBody):
        for field in _SAME:
            setattr(chat, field, getattr(body, field))
        if body.max_tokens < 1:
            refuse("max_tokens", f"max_tokens must be at least 1, got {body.max_tokens}")
        chat.thinking_token_budget = _budget(body)
        chat.stop = list(body.stop_sequences) if body.stop_sequences else None
    check_tools(chat)
    return chat


def _system(system: str | list[TextBlock] | None) -> str:
    """The instructions. Claude Code writes a line for Anthropic's accounts before them, with a digest of the first
    message: in a prompt it would keep conversations from sharing their beginning."""
    if isinstance(system, list):
        system = [block for block in system if not block.text.startswith(_ACCOUNTS)]
    return _text(system or "")


def _budget(body: MessagesBody) -> int | None:
    """The tokens that reasoning may come to; they are part of `max_tokens`."""
    if body.thinking is None or body.thinking.type != "enabled":
        return None
    tokens = body.thinking.budget_tokens
    if tokens is None:
        refuse("thinking", "thinking.budget_tokens is required where thinking is enabled")
    if not 1 <= tokens < body.max_tokens:
        refuse("thinking", f"thinking.budget_tokens must be at least 1 and below max_tokens, got {tokens}")
    return tokens


def _messages(message: InputMessage, where: str, names: dict[str, str]) -> Iterator[Message]:
    """A message as one of the assistant, or as tool results and one of the user. `names` are those of the functions
    called so far, by the id of the call."""
    if isinstance(message.content, str):
        yield Message(role=message.role, content=message.content)
        return
    texts: list[TextBlock] = []
    thoughts: list[str] = []
    calls: list[Any] = []
    answered = False
    for i, block in enumerate(message.content):
        match block:
            case TextBlock():
                texts.append(block)
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case ToolUseBlock():
                names[block.id] = block.name
                function = {"name": block.name, "arguments": block.input}
                calls.append({"id": block.id, "type": "function", "function": function})
            case ToolResultBlock():
                answered = True
                yield Message(
                    role="tool",
                    content=_text(block.content or ""),
                    tool_call_id=block.tool_use_id,
                    name=names.get(block.tool_use_id),
                )
            case RedactedBlock():
                pass
            case ImageBlock() | DocumentBlock():
                refuse("messages", f"{where}.content[{i}]: only text is supported")
    if calls or thoughts or texts or not answered:
        yield Message(
            role=message.role,
            content=_text(texts) if texts or not calls else None,
            tool_calls=as_raw(calls) if calls else None,
            reasoning_content="\n".join(thoughts) or None,
        )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    for block in content:
        if not isinstance(block, TextBlock):
            refuse("messages", "the content of a tool_result: only text is supported")
    return "\n".join(block.text for block in content)


def _tools(tools: list[InputTool] | None) -> Raw | None:
    if not tools:
        return None
    written = []
    for i, tool in enumerate(tools):
        if tool.type not in (None, "custom"):
            refuse("tools", f"tools[{i}] is of type {named(tool.type)}: only custom ones are supported")
        function: dict[str, Any] = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        function["parameters"] = tool.input_schema or {"type": "object", "properties": {}}
        written.append({"type": "function", "function": function})
    return read_tools(as_raw(written))
