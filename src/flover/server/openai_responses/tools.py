"""The tools of `/v1/responses` as functions of a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flover.errors import RequestError, named

Tool = dict[str, Any]
LEFT_OUT = frozenset(["web_search", "web_search_preview", "image_generation"])
"""Tools that OpenAI's servers run, and that Codex sends unasked: the model is not told of them."""


def split_tools(tools: list[Tool]) -> tuple[list[Tool], list[Tool]]:
    """The tools that can be called, and those that are left out. Where nothing else could be called, none are: they are
    what the request is about, and are refused with all others that are not known."""
    kept = [tool for tool in tools if not _is_left_out(tool)]
    return (kept, [tool for tool in tools if _is_left_out(tool)]) if kept else (tools, [])


def _is_left_out(tool: Tool) -> bool:
    kind = tool.get("type")
    return isinstance(kind, str) and kind in LEFT_OUT  # a client may send anything


def as_functions(tools: list[Tool]) -> list[Tool]:
    """Functions as chat completions have them: under a name of their own, those of a namespace after its name."""
    written = []
    for tool in tools:
        for namespace, member in _members(tool):
            function = {name: value for name, value in member.items() if name != "type" and value is not None}
            if namespace is not None and isinstance(function.get("name"), str):
                function["name"] = flat_name(namespace, function["name"])
            written.append({"type": member.get("type", "function"), "function": function})
    return written


def names_by_function(tools: list[Tool]) -> dict[str, dict[str, str]]:
    """`namespace` and `name` of each function of a namespace, by the name that it has in a conversation."""
    return {
        flat_name(namespace, member["name"]): {"namespace": namespace, "name": member["name"]}
        for tool in tools
        for namespace, member in _members(tool)
        if namespace is not None
    }


def flat_name(namespace: str | None, name: str) -> str:
    """One name for a function of a namespace."""
    return name if namespace is None else f"{namespace.removesuffix('__')}__{name}"


def _members(tool: Tool) -> Iterator[tuple[str | None, Tool]]:
    """The functions of a tool, with their namespace."""
    if tool.get("type") != "namespace":
        yield None, tool
        return
    namespace, members = tool.get("name"), tool.get("tools")
    if not isinstance(namespace, str) or not isinstance(members, list):
        raise RequestError("tools: a namespace needs a name, and its functions in tools", param="tools")
    for member in members:
        if not isinstance(member, dict) or member.get("type", "function") != "function":
            kind = member.get("type") if isinstance(member, dict) else type(member).__name__
            raise RequestError(f"tools: a namespace may hold functions only, not {named(str(kind))}", param="tools")
        yield namespace, member
