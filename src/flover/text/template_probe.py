"""Detects which roles and content types a chat template supports, by rendering small conversations.

Some templates silently drop a developer message, some print a list of parts as Python does, some accept
only lists. Each case is rendered once, when the template is loaded, with contents that can be found in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flover.errors import RequestError

_FIRST, _SECOND = "flover-probe-one", "flover-probe-two"
_TEXT = _FIRST + _SECOND
_INSTRUCTING = ("system", "developer")
_CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}

Render = Callable[[list[dict[str, Any]]], str]
_TOOL = {
    "type": "function",
    "function": {
        "name": "flover_probe_tool",
        "description": "Looks",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}


@dataclass(frozen=True, slots=True)
class TemplateSupport:
    """The message forms that a template supports. Roles in neither set of list roles get content as one string."""

    roles: frozenset[str]
    """Supported roles."""
    developer_role: bool
    """Whether the role `developer` is supported; else its messages are passed as `system`."""
    part_roles: frozenset[str]
    """Roles whose content may be a list of text parts."""
    only_part_roles: frozenset[str]
    """Roles whose content must be a list of text parts, even if a client sent a string."""
    one_system: bool
    """Whether it drops or refuses a second message with instructions: those at the start are then joined in one."""
    later_system: bool
    """Whether it takes instructions after messages of the user; else they become text of the user's message there."""
    two_users: bool
    """Whether it takes two messages of the user in a row, which Codex sends; else they are joined."""
    missing_content: bool
    """Whether an assistant message with tool calls may have no content; else it gets an empty one."""

    def apply(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages converted to supported forms."""
        joined = self._joined(messages)
        if not (self.later_system and self.two_users):
            joined = _folded(joined, instructions=not self.later_system, users=not self.two_users)
        return [self._apply(message) for message in joined]

    def _joined(self, messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """System and developer messages at the start, joined where the template takes only one."""
        count = next((i for i, one in enumerate(messages) if one["role"] not in _INSTRUCTING), len(messages))
        first = messages[:count]
        if not self.one_system or count < 2:
            return messages
        return [dict(first[0]) | {"content": "\n\n".join(map(_text_of, first))}, *messages[count:]]

    def _apply(self, message: dict[str, Any]) -> dict[str, Any]:
        role, content = message["role"], message.get("content")
        changed = dict(message)
        if role == "developer" and not self.developer_role:
            role = changed["role"] = "system"
        if isinstance(content, list) and role not in self.part_roles:
            changed["content"] = "".join(part["text"] for part in content)
        elif isinstance(content, list):
            changed["content"] = [dict(part) for part in content]
        elif isinstance(content, str) and role in self.only_part_roles:
            changed["content"] = [{"type": "text", "text": content}]
        elif content is None and not self.missing_content:
            changed["content"] = ""
        return changed


def probe_template(render: Render) -> TemplateSupport:
    """Probe a template. `render` raises `RequestError` if the template refuses a conversation."""
    parts = [{"type": "text", "text": _FIRST}, {"type": "text", "text": _SECOND}]
    roles, taken, needed = set(), set(), set()
    developer = _renders(render, _conversation("developer", _TEXT))
    for role in ("system", "developer", "user", "assistant", "tool"):
        if role == "developer" and not developer:
            continue
        text, list_of_parts = (_renders(render, _conversation(role, content)) for content in (_TEXT, parts))
        if text or list_of_parts:
            roles.add(role)
        if list_of_parts:
            taken.add(role)
            if role != "developer" and not text:
                needed.add(role)
    if "system" in roles:
        roles.add("developer")
    user = {"role": "user", "content": "Hi"}
    both = [{"role": "system", "content": content} for content in (_FIRST, _SECOND)]
    one_system = not _renders(render, [*both, user])
    later_system = _renders(render, [user, both[0] | {"content": _TEXT}, {"role": "assistant", "content": "Yes"}, user])
    two_users = _renders(render, [user | {"content": content} for content in (_FIRST, _SECOND)])
    called = _conversation("tool", _TEXT)
    without = [message | {} for message in called]
    del without[1]["content"]
    missing_content = _renders(render, without) or not _renders(render, called)
    return TemplateSupport(
        frozenset(roles),
        developer,
        frozenset(taken),
        frozenset(needed),
        one_system,
        later_system,
        two_users,
        missing_content,
    )


def writes_tools(render: Callable[[list[dict[str, Any]], list[dict[str, Any]]], str]) -> bool:
    """Whether a template writes the tools of a conversation into the prompt."""
    try:
        return "flover_probe_tool" in render([{"role": "user", "content": "Hi"}], [_TOOL])
    except RequestError:
        return False


def _folded(messages: Sequence[dict[str, Any]], *, instructions: bool, users: bool) -> list[dict[str, Any]]:
    """With `instructions`, those after the first message as text of the user's message beside them, or as one of the
    user; with `users`, messages of the user in a row as one."""
    folded: list[dict[str, Any]] = []
    was_folded = False
    for i, message in enumerate(messages):
        fold = instructions and i > 0 and message["role"] in _INSTRUCTING
        one = dict(message) | {"role": "user"} if fold else message
        join = users or fold or was_folded
        if folded and join and one["role"] == folded[-1]["role"] == "user":
            folded[-1] = dict(folded[-1]) | {"content": f"{_text_of(folded[-1])}\n\n{_text_of(one)}"}
        else:
            folded.append(dict(one))
        was_folded = fold
    return folded


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _conversation(role: str, content: Any) -> list[dict[str, Any]]:
    """A conversation in which one role has this content."""
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
    asked = {"role": role, "content": content}
    if role == "user":
        return [asked]
    if role == "assistant":
        return [user, asked]
    if role == "tool":
        call = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        return [user, call, asked | {"tool_call_id": _CALL["id"], "name": "look"}]
    return [asked, user, answer, user]


def _renders(render: Render, messages: list[dict[str, Any]]) -> bool:
    """Whether the probe's text is in the prompt, and not as a list printed by Python or as JSON."""
    try:
        text = render(messages)
    except RequestError:
        return False
    written = _FIRST in text and _SECOND in text
    return written and "'type'" not in text and '"type": "text"' not in text and '"type":"text"' not in text
