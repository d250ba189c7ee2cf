"""The bodies of Ollama's API, and the conversations that they ask about. All raise `RequestError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flover.config import Limits, flag_name
from flover.errors import named, too_many, wrong_value
from flover.sampling_checks import PARAMETERS
from flover.server.protocol import ChatBody, Dimensions, Effort, Message, Role
from flover.server.read_structured import read_format
from flover.server.read_tools import check_tools, read_tools
from flover.server.read_values import as_raw, read_value, refuse

OPTIONS: Mapping[str, tuple[str, Any]] = {
    **{known.ollama: (name, known.range.kind) for name, known in PARAMETERS.items() if known.ollama},
    "stop": ("stop", str | list[str]),
}
"""Options that change the answer: their names in chat completions, and their types."""
IGNORED = frozenset(
    (
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "low_vram", "f16_kv", "vocab_only"),
        *("use_mmap", "use_mlock", "numa", "repeat_last_n", "penalize_newline", "mirostat_tau", "mirostat_eta"),
    )
)
"""Options of how a model is loaded, and parameters of samplers that are off."""
OFF: Mapping[str, tuple[float, ...]] = {"mirostat": (0,), "tfs_z": (1,), "typical_p": (1,)}
"""Options that are accepted at these values alone."""


class InputMessage(msgspec.Struct, kw_only=True):
    """One message."""

    role: Role
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None


class OllamaBody(msgspec.Struct, kw_only=True):
    """What both bodies have; `stream` is on by default."""

    model: str | None = None
    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    think: bool | Effort | None = None


class OllamaChatBody(OllamaBody, kw_only=True):
    """`POST /api/chat`. Without messages the model is loaded, which it is already."""

    messages: list[InputMessage] | None = None
    tools: list[dict[str, Any]] | None = None


class OllamaGenerateBody(OllamaBody, kw_only=True):
    """`POST /api/generate`: a conversation of one message."""

    prompt: str | None = None
    system: str | None = None


class OllamaShowBody(msgspec.Struct, kw_only=True):
    """`POST /api/show`; `name` is what older clients call the model."""

    model: str | None = None
    name: str | None = None


class OllamaEmbedBody(msgspec.Struct, kw_only=True):
    """`POST /api/embed`; `truncate` is on by default. Options change nothing."""

    model: str | None = None
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: Dimensions | None = None
    options: dict[str, Any] | None = None


class OllamaEmbeddingsBody(msgspec.Struct, kw_only=True):
    """`POST /api/embeddings`, one text."""

    model: str | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None


def to_chat(body: OllamaChatBody | OllamaGenerateBody, limits: Limits) -> ChatBody:
    """The conversation of a body."""
    if isinstance(body, OllamaGenerateBody):
        system = [Message(role="system", content=body.system)] if body.system else []
        chat = ChatBody(messages=[*system, Message(role="user", content=body.prompt)])
    else:
        messages = body.messages or []
        if len(messages) > limits.max_messages:
            raise too_many("messages", limits.max_messages, "messages", flag=flag_name("max_messages"))
        chat = ChatBody(messages=[_message(one, f"messages[{i}]") for i, one in enumerate(messages)])
        chat.tools = read_tools(as_raw(body.tools)) if body.tools else None
    for name, value in (body.options or {}).items():
        _set(chat, name, value)
    if body.format:
        chat.response_format = read_format(as_raw(_format(body.format)), "format")
    if isinstance(body.think, bool):
        chat.chat_template_kwargs = {"enable_thinking": body.think}
    elif body.think is not None:
        chat.reasoning_effort = body.think
    check_tools(chat)
    return chat


def _message(message: InputMessage, where: str) -> Message:
    if message.images:
        refuse("messages", f"{where}.images: only text is supported")
    calls = message.tool_calls or []
    for i, call in enumerate(calls):
        if not isinstance(call.get("function"), dict) or not isinstance(call["function"].get("name"), str):
            refuse("messages", f"{where}.tool_calls[{i}].function.name is required")
    return Message(
        role=message.role,
        content=message.content or "",
        reasoning_content=message.thinking,
        name=message.tool_name,
        tool_calls=as_raw(calls) if calls else None,
    )


def _set(chat: ChatBody, name: str, value: Any) -> None:
    """Set the field that an option means."""
    where = f"options.{name[:64]}"
    if value is None or name in IGNORED:
        return
    if name in OFF:
        if isinstance(value, bool) or value not in OFF[name]:
            refuse("options", f"{where} is not supported: leave it out")
        return
    if name not in OPTIONS:
        refuse("options", f"options.{named(name)} is not an option that this server knows")
    field, kind = OPTIONS[name]
    if field == "max_tokens" and value == -2:
        value = -1  # to the end of the context, as -1
    read = read_value(as_raw(value), kind, where)
    if field == "stop":
        texts = [read] if isinstance(read, str) else read
        read = [text for text in texts if text] or None
    setattr(chat, field, read)


def _format(wanted: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, dict):
        return {"type": "json_schema", "json_schema": {"schema": wanted}}
    if wanted != "json":
        raise wrong_value("format", '"json" or a JSON Schema', wanted)
    return {"type": "json_object"}
