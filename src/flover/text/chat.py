"""Renders a conversation into a prompt with the model's chat template.

A template comes from the model or the operator, never from a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2.exceptions import TemplateError, TemplateRuntimeError

from flover.errors import ModelError, RequestError
from flover.text.files import MAX_TEMPLATE_BYTES
from flover.text.messages import MAX_MESSAGES, check_messages, plain_json, refuse, shown
from flover.text.sandbox import Sandbox
from flover.text.template_budget import BASE_UNITS, Budget
from flover.text.template_probe import probe_template, writes_tools

MAX_PROMPT_CHARS = 2**22
"""Maximum length of a rendered conversation, in characters."""
MAX_TEMPLATE_KWARGS = 32
_MAX_KWARG_CHARS = 1000
_MAX_KWARG_NAME_CHARS = 64
_PROBE_UNITS = BASE_UNITS // 10
_PAIR_UNITS = 5000
"""Work allowed per pair of messages: some templates look at all later messages for each message."""
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
"""Marks the end of a final message that is to be continued; the same as in transformers."""
# fmt: off
RESERVED_KWARGS = frozenset((
    # passed by the renderer, here and in transformers
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "conversation",
    "conversations", "chat_template", "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask",
    # reserved by Jinja and its compiled templates
    "self", "context", "environment", "loop", "super", "caller", "varargs", "kwargs", "missing", "resolve",
    "undefined", "concat", "cond_expr_undefined", "name", "blocks", "block", "eval_ctx", "parent_template",
    # keywords of the language
    "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if", "else", "elif", "for",
    "set", "macro", "call", "filter", "recursive", "import", "from", "include", "extends", "with", "as", "ignore",
))
# fmt: on


class ChatTemplate:
    """A compiled chat template. It is immutable, so threads may share it.

    `special_tokens` are the variables `bos_token`, `eos_token` and so on. `now` is the time for templates that
    write a date, `clock` the processor time of the current thread. Raises `ModelError` if the template is too big,
    not valid Jinja, or uses unsupported parts of Jinja.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
        clock: Callable[[], float] = time.thread_time,
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        if len(source.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
            raise ModelError(f"the chat template is larger than {MAX_TEMPLATE_BYTES} bytes")
        self._source = source
        self._special_tokens = dict(special_tokens or {})
        self._clock = clock
        self._max_messages = max_messages
        self._sandbox = Sandbox()
        self._sandbox.globals["raise_exception"] = _raise_exception
        self._sandbox.globals["strftime_now"] = lambda format: now().strftime(str(format)[:256])
        try:
            self._template = self._sandbox.from_string(source)
        except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise ModelError(f"the chat template is not valid: {_explain(error)}") from error
        self._support = probe_template(self._probe)
        self.writes_tools = writes_tools(self._probe)
        """Whether the template describes tools in the prompt."""

    @property
    def source(self) -> str:
        """The template's text."""
        return self._source

    @property
    def roles(self) -> frozenset[str]:
        """Roles that the template supports."""
        return self._support.roles

    def render(
        self,
        messages: Any,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation, special tokens included.

        `continue_final_message` ends the prompt inside the last message, so that the model continues it; it
        excludes `add_generation_prompt`. `template_kwargs` are variables for the template: numbers, strings, booleans.
        Raises `RequestError` if the messages are not valid or the template refuses them.
        """
        checked = self._support.apply(check_messages(messages, self._max_messages))
        if continue_final_message and add_generation_prompt:
            refuse("continue_final_message and add_generation_prompt exclude each other", "continue_final_message")
        final = _tag_final_message(checked[-1], self._source) if continue_final_message else ""
        variables = {**self._special_tokens, **self._check_kwargs(template_kwargs or {})}
        variables |= {
            "messages": checked,
            "tools": plain_json(tools, "tools") if tools else None,
            "documents": plain_json(documents, "documents") if documents else None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(variables, BASE_UNITS + _PAIR_UNITS * len(checked) ** 2)
        if not _is_unicode(text):
            _refuse_surrogates(variables)
        return _cut_at_tag(text, final) if continue_final_message else text

    def _probe(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": False}
        return self._run({**self._special_tokens, **variables}, _PROBE_UNITS)

    def _run(self, variables: Mapping[str, Any], base_units: int) -> str:
        pieces: list[str] = []
        total = 0
        try:
            budget = Budget(list(variables.values()), base_units=base_units, clock=self._clock)
            for piece in self._template.generate(self._sandbox.variables(variables, budget)):
                pieces.append(piece)
                total += len(piece)
                if total > MAX_PROMPT_CHARS:
                    refuse(f"the conversation becomes a prompt of more than {MAX_PROMPT_CHARS} characters")
        except RequestError:
            raise
        except Exception as error:  # untrusted code can raise anything
            raise RequestError(f"the chat template failed: {_explain(error)}", param="messages") from error
        return "".join(pieces)

    def _check_kwargs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        where = "chat_template_kwargs"
        if len(kwargs) > MAX_TEMPLATE_KWARGS:
            refuse(f"{where} may hold at most {MAX_TEMPLATE_KWARGS} entries, got {len(kwargs)}", where)
        for name, value in kwargs.items():
            self._check_kwarg(name, value, where)
        return dict(kwargs)

    def _check_kwarg(self, name: Any, value: Any, where: str) -> None:
        if not isinstance(name, str):
            refuse(f"{where} must have names that are strings, got {type(name).__name__}", where)
        reserved = name in RESERVED_KWARGS or name in self._sandbox.globals or name.endswith("_token")
        if reserved or not name.isidentifier() or name.startswith("_") or len(name) > _MAX_KWARG_NAME_CHARS:
            refuse(f"{where}.{shown(name)} cannot be set", where)
        if value is not None and type(value) not in (str, int, float, bool):
            kind = type(value).__name__
            refuse(f"{where}.{shown(name)} must be a string, a number or a boolean, got {kind}", where)
        if isinstance(value, str) and len(value) > _MAX_KWARG_CHARS:
            refuse(f"{where}.{shown(name)} may be at most {_MAX_KWARG_CHARS} characters long, got {len(value)}", where)
        if isinstance(value, str) and not _is_unicode(value):
            refuse(f"{where}.{shown(name)} holds a lone surrogate, which is no character", where)


def _raise_exception(message: Any) -> NoReturn:
    """The template function `raise_exception`, which refuses a conversation."""
    raise TemplateRuntimeError(str(message)[:1000])


def _explain(error: Exception) -> str:
    return shown(str(error), 1000) or type(error).__name__


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_surrogates(variables: Mapping[str, Any]) -> NoReturn:
    """Refuse a conversation with a lone surrogate, naming the message that holds it."""
    for i, message in enumerate(variables["messages"]):
        for name, value in message.items():
            if not _is_unicode(str(value)) or (not isinstance(value, str) and "\\ud" in str(value)):
                refuse(f"messages[{i}].{shown(name)} holds a lone surrogate, which is no character")
    refuse("the chat template writes a lone surrogate, which is no character")


def _tag_final_message(message: dict[str, Any], source: str) -> str:
    """Mark the end of the content to be continued, as transformers does, and return that content."""
    param = "continue_final_message"
    content = message.get("content")
    if content is None:
        refuse(f"{param}: the last message has no content to continue", param)
    if "content" not in source:
        refuse(f"{param}: the chat template writes no content", param)
    if isinstance(content, str):
        message["content"] = content + _CONTINUE_TAG
        return content
    if not content:
        refuse(f"{param}: the last message has no text to continue", param)
    text: str = content[-1]["text"]
    content[-1]["text"] = text + _CONTINUE_TAG
    return text


def _cut_at_tag(text: str, content: str) -> str:
    """The prompt up to the tag; where the template trims contents, the space before it is removed too."""
    tag = _CONTINUE_TAG.strip()
    if content.strip() not in text or tag not in text:
        refuse(
            "continue_final_message: the last message does not appear in the rendered prompt", "continue_final_message"
        )
    position = text.rindex(tag)
    before = text[:position]
    return before if text.startswith(_CONTINUE_TAG, position) else before.rstrip()
