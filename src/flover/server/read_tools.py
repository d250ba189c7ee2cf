"""Reads `tools` and `tool_choice` of a body."""

from __future__ import annotations

from msgspec import Raw

from flover.errors import RequestError, named, quoted, wrong_value
from flover.server.protocol import MAX_TOOLS, MAX_TOOLS_BYTES, ChatBody, Tool, ToolChoice
from flover.server.read_values import begins, check_list, is_null, read_items, read_members, read_value

A_TOOL = "an object with type and function"
A_CHOICE = 'none, auto, required, or {"type": "function", "function": {"name": ...}}'
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
    if kind != "function":
        raise RequestError(f"{name} of type {named(kind)} is not supported: send {A_CHOICE}", param=name)
    function = members.get("function")
    if function is not None and not is_null(function):
        members = read_members(function, f"{name}.function", "an object with name", MAX_TOOL_FIELDS)
    if "name" not in members:
        raise RequestError(f"{name}.function.name is required", param=name)
    return ToolChoice(mode="function", name=read_value(members["name"], str, f"{name}.function.name"))


def check_tools(body: ChatBody) -> None:
    """Check that the choice is one of the tools. Raises `RequestError`. An answer that must be a call has no text that
    `response_format` could concern."""
    choice = body.tool_choice
    if choice is None or not choice.forces:
        return
    if body.tools is None:
        raise RequestError("tool_choice asks for a call, and there are no tools", param="tool_choice")
    if choice.name is not None and choice.name not in body.functions:
        raise RequestError(f"tool_choice: {quoted(choice.name, 64)} is not one of the tools", param="tool_choice")
    if body.structured_outputs is not None:
        raise RequestError(
            "tool_choice asks for a call, structured_outputs for another answer: send one of them", param="tool_choice"
        )
