"""Reads `tools` and `tool_choice` of a body."""

from __future__ import annotations

from msgspec import Raw

from flover.errors import RequestError, named, quoted, wrong_value
from flover.server.protocol import MAX_TOOLS, MAX_TOOLS_BYTES, ChatBody, Tool, ToolChoice
from flover.server.read_values import begins, check_list, is_null, read_items, read_members, read_value

A_TOOL = "an object with type and function"
A_CHOICE = (
    'none, auto, required, {"type": "function", "function": {"name": ...}}, or {"type": "allowed_tools", '
    '"allowed_tools": {"mode": "auto" or "required", "tools": [...]}}'
)
MAX_TOOL_FIELDS = 16


def read_tools(raw: Raw) -> Raw | None:
    """The tools, after a check of their number, size and form; None if there are none. Raises `RequestError`."""
    check_list(raw, "tools", "a list of tools", MAX_TOOLS, "tools")
    size = len(memoryview(raw))
    if size > MAX_TOOLS_BYTES:
        raise RequestError(f"tools may be at most {MAX_TOOLS_BYTES} bytes of JSON, got {size}", param="tools")
    items = read_items(raw, "tools", "a list of tools", MAX_TOOLS, "tools")
    for i, item in enumerate(items):
        _check_tool(item, f"tools[{i}]")
    return raw if items else None


def _check_tool(raw: Raw, where: str) -> None:
    members = read_members(raw, where, A_TOOL, MAX_TOOL_FIELDS)
    kind = read_value(members["type"], str, f"{where}.type") if "type" in members else "function"
    if kind != "function":
        raise RequestError(f"{where} is of type {named(kind)}: only functions are supported", param="tools")
    read_value(raw, Tool, where, A_TOOL)


def read_tool_choice(raw: Raw) -> ToolChoice:
    """`tool_choice` in any of its forms. Raises `RequestError`."""
    name = "tool_choice"
    if not begins(raw, "{"):
        mode = read_value(raw, str, name, A_CHOICE)
        if mode == "any":  # what Mistral's API calls it
            mode = "required"
        if mode not in ("none", "auto", "required"):
            raise wrong_value(name, A_CHOICE, raw)
        return ToolChoice(mode=mode)
    members = read_members(raw, name, A_CHOICE, MAX_TOOL_FIELDS)
    kind = read_value(members["type"], str, f"{name}.type") if "type" in members else "function"
    if kind == "allowed_tools":
        return _read_allowed(members, name)
    if kind != "function":
        raise RequestError(f"{name} of type {named(kind)} is not supported: send {A_CHOICE}", param=name)
    return ToolChoice(mode="function", name=_read_name(members, name))


def _read_allowed(members: dict[str, Raw], where: str) -> ToolChoice:
    """The tools that alone may be called: in an object of their own, as for chat completions, or beside the type, as in
    the Responses API."""
    if "allowed_tools" in members:
        where = f"{where}.allowed_tools"
        members = read_members(members["allowed_tools"], where, "an object with mode and tools", MAX_TOOL_FIELDS)
    mode = read_value(members["mode"], str, f"{where}.mode") if "mode" in members else None
    if mode not in ("auto", "required"):
        raise RequestError(f"{where}.mode must be auto or required", param="tool_choice")
    items = read_items(members.get("tools", Raw(b"[]")), f"{where}.tools", "a list of tools", MAX_TOOLS, "tools")
    if not items:
        raise RequestError(f"{where}.tools must name at least one tool", param="tool_choice")
    names = []
    for i, item in enumerate(items):
        tool = read_members(item, f"{where}.tools[{i}]", A_TOOL, MAX_TOOL_FIELDS)
        kind = read_value(tool["type"], str, f"{where}.tools[{i}].type") if "type" in tool else "function"
        if kind != "function":
            message = f"{where}.tools[{i}] is of type {named(kind)}: only functions are supported"
            raise RequestError(message, param="tool_choice")
        names.append(_read_name(tool, f"{where}.tools[{i}]"))
    return ToolChoice(mode="auto" if mode == "auto" else "required", allowed=tuple(names))


def _read_name(members: dict[str, Raw], where: str) -> str:
    """That of a function, in its `function` or beside the type."""
    function = members.get("function")
    if function is not None and not is_null(function):
        members = read_members(function, f"{where}.function", "an object with name", MAX_TOOL_FIELDS)
    if "name" not in members:
        raise RequestError(f"{where}.function.name is required", param="tool_choice")
    name: str = read_value(members["name"], str, f"{where}.function.name")
    return name


def check_tools(body: ChatBody) -> None:
    """Check that the choice is one of the tools. Raises `RequestError`. An answer that must be a call has no text that
    `response_format` could concern."""
    choice = body.tool_choice
    if choice is None or not (choice.forces or choice.allowed):
        return
    if body.tools is None:
        raise RequestError("tool_choice asks for a call, and there are no tools", param="tool_choice")
    for name in choice.allowed or ([] if choice.name is None else [choice.name]):
        if name not in body.functions:
            raise RequestError(f"tool_choice: {quoted(name, 64)} is not one of the tools", param="tool_choice")
    if choice.forces and body.structured_outputs is not None:
        raise RequestError(
            "tool_choice asks for a call, structured_outputs for another answer: send one of them", param="tool_choice"
        )
