"""Conversations to prompts: checks the messages and renders the model's chat template.

A template comes from the model or from whoever runs Flover, never from a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError, TemplateRuntimeError

from flover.errors import ModelError, RequestError
from flover.text.files import MAX_TEMPLATE_BYTES
from flover.text.sandbox import Sandbox

MAX_PROMPT_CHARS = 2**22
"""Most characters that a template may make of one conversation."""
MAX_MESSAGES = 1024
MAX_TEMPLATE_KWARGS = 32
ROLES = ("system", "developer", "user", "assistant", "tool")

Message = Mapping[str, Any]
_MESSAGE_FIELDS = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content", "refusal")
)
_RENDER_FIELDS = frozenset(("messages", "tools", "add_generation_prompt", "continue_final_message"))


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """A conversation as templates want it: text contents are strings, lists of text parts are joined.

    Raises `RequestError` that names the message and the field.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        _refuse("messages must be a list of messages")
    if not messages:
        _refuse("messages must not be empty")
    if len(messages) > MAX_MESSAGES:
        _refuse(f"messages may hold at most {MAX_MESSAGES} messages, got {len(messages)}")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        _refuse(f"{where} must be an object with role and content, got {type(message).__name__}")
    for name in message:
        if name not in _MESSAGE_FIELDS:
            _refuse(f"{where}.{name} is not a known field of a message")
    role = message.get("role")
    if role not in ROLES:
        _refuse(f"{where}.role must be one of {', '.join(ROLES)}, got {role!r}")
    checked = {name: value for name, value in message.items() if value is not None}
    if message.get("content") is not None:
        checked["content"] = _content_text(message["content"], f"{where}.content")
    elif role == "assistant" and message.get("tool_calls"):
        checked["content"] = ""
    else:
        _refuse(f"{where}.content is missing")
    return checked


def _content_text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        _refuse(f"{where} must be a string or a list of text parts, got {type(content).__name__}")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or "type" not in part:
            _refuse(f"{where}[{i}] must be an object with a type")
        if part["type"] != "text":
            _refuse(f"{where}[{i}] has type {part['type']!r}: only text parts are supported")
        if not isinstance(part.get("text"), str):
            _refuse(f"{where}[{i}].text must be a string")
        texts.append(part["text"])
    return "".join(texts)


def _refuse(message: str, param: str = "messages") -> NoReturn:
    raise RequestError(message, param=param)


class ChatTemplate:
    """A compiled chat template. Rendering changes nothing in it, so threads may share one.

    `special_tokens` are the variables `bos_token`, `eos_token` and so on. `now` tells the time to templates that
    write a date. Raises `ModelError` if the template is too big or not valid Jinja.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        if len(source.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"the chat template is larger than {MAX_TEMPLATE_BYTES} bytes")
        self._special_tokens = dict(special_tokens or {})
        self._sandbox = Sandbox()
        self._sandbox.globals["raise_exception"] = _raise_exception
        self._sandbox.globals["strftime_now"] = lambda form: now().strftime(str(form)[:256])
        try:
            self._literal_len = self._sandbox.literal_len(source)
            self._template = self._sandbox.from_string(source)
        except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise ModelError(f"the chat template is not valid: {error or type(error).__name__}") from error

    def render(
        self,
        messages: Any,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation, special tokens included.

        `continue_final_message` ends the prompt inside the last message, so that the model goes on with it; it
        excludes `add_generation_prompt`. `template_kwargs` are the template's own switches: numbers, strings, booleans.
        Raises `RequestError` if the messages are not valid or the template refuses them.
        """
        checked = check_messages(messages)
        if continue_final_message and add_generation_prompt:
            _refuse("continue_final_message and add_generation_prompt exclude each other", "continue_final_message")
        variables: dict[str, Any] = {**self._special_tokens, **_check_kwargs(template_kwargs or {})}
        variables |= {
            "messages": checked,
            "tools": list(tools) if tools else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(variables)
        return _cut_after_final_message(text, checked[-1]["content"]) if continue_final_message else text

    def _run(self, variables: dict[str, Any]) -> str:
        pieces: list[str] = []
        total = 0
        try:
            for piece in self._template.generate(self._sandbox.variables(self._literal_len, **variables)):
                pieces.append(piece)
                total += len(piece)
                if total > MAX_PROMPT_CHARS:
                    _refuse(f"the conversation becomes a prompt of more than {MAX_PROMPT_CHARS} characters")
        except RequestError:
            raise
        except Exception as error:  # a template is a foreign program: anything may go wrong in it
            raise RequestError(f"the chat template failed: {_explain(error)}", param="messages") from error
        return "".join(pieces)


def _raise_exception(message: Any) -> NoReturn:
    """The function by which a template refuses a conversation."""
    raise TemplateRuntimeError(str(message)[:1000])


def _explain(error: Exception) -> str:
    return str(error)[:1000] or type(error).__name__


def _check_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    where = "chat_template_kwargs"
    if len(kwargs) > MAX_TEMPLATE_KWARGS:
        _refuse(f"{where} may hold at most {MAX_TEMPLATE_KWARGS} entries, got {len(kwargs)}", where)
    for name, value in kwargs.items():
        if not name.isidentifier() or name.startswith("_") or name in _RENDER_FIELDS or name.endswith("_token"):
            _refuse(f"{where}.{name} cannot be set", where)
        if value is not None and not isinstance(value, str | int | float):
            _refuse(f"{where}.{name} must be a string, a number or a boolean, got {type(value).__name__}", where)
        if isinstance(value, str) and len(value) > 1000:
            _refuse(f"{where}.{name} may be at most 1000 characters long, got {len(value)}", where)
    return dict(kwargs)


def _cut_after_final_message(text: str, content: str) -> str:
    """Cut what the template wrote after the last message, like transformers does."""
    for wanted in (content, content.strip()):
        position = text.rfind(wanted)
        if position >= 0 and wanted:
            return text[: position + len(wanted)]
    _refuse("continue_final_message: the last message does not appear in the rendered prompt", "continue_final_message")
