"""What a chat template does with messages that not every template knows, found out by rendering small conversations.

Some templates drop a developer's message without a word, some write a list of parts as Python prints it, some write
only lists. Each is tried once, when the template is loaded, with contents that can be found again in the prompt.
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


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template takes. Roles that are in neither set get their content as one string."""

    roles: frozenset[str]
    """Roles whose messages it takes."""
    developer_role: bool
    """Whether it writes messages of the role `developer`; else they are given to it as `system`."""
    part_roles: frozenset[str]
    """Roles whose content may be a list of text parts."""
    only_part_roles: frozenset[str]
    """Roles whose content must be a list of text parts, even where a client sent a string."""
    one_system: bool
    """Whether it drops or refuses a second message with instructions: those at the start are then joined in one."""
    missing_content: bool
    """Whether an assistant's message with tool calls may be without a content; else it gets an empty one."""

    def apply(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages as the template takes them."""
        return [self._apply(message) for message in self._joined(messages)]

    def _joined(self, messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """A developer's instructions that come before or after the system's, both at the start, joined with them."""
        count = next((i for i, one in enumerate(messages) if one["role"] not in _INSTRUCTING), len(messages))
        first = messages[:count]
        if not self.one_system or count < 2 or all(one["role"] == "system" for one in first):
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


def find_habits(render: Render) -> Habits:
    """Try a template. `render` raises `RequestError` for what the template refuses."""
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
    called = _conversation("tool", _TEXT)
    without = [message | {} for message in called]
    del without[1]["content"]
    missing_content = _renders(render, without) or not _renders(render, called)
    return Habits(frozenset(roles), developer, frozenset(taken), frozenset(needed), one_system, missing_content)


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
    """Whether the probe's words come through, and not as a list printed by Python or as JSON."""
    try:
        text = render(messages)
    except RequestError:
        return False
    written = _FIRST in text and _SECOND in text
    return written and "'type'" not in text and '"type": "text"' not in text and '"type":"text"' not in text
