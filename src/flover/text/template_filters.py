"""The filters and functions that chat templates use, each charged to the rendering's budget.

What Jinja offers beyond this list is left out: most of it can make a huge value out of a small one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.utils import Namespace, pass_context

from flover.text.template_budget import Budget, budget_of

MAX_RANGE_LEN = 10_000
MAX_INDENT = 64

# fmt: off
_JINJAS_OWN = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "forceescape",
    "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "reverse", "round", "safe", "select", "selectattr", "sort", "string", "striptags", "title", "trim",
    "unique", "upper",
)
# fmt: on


def make_filters() -> dict[str, Callable[..., Any]]:
    """All filters, by name."""
    own = {name: _charged(FILTERS[name]) for name in _JINJAS_OWN}
    return own | {"join": _join, "replace": _replace, "indent": _indent, "tojson": _tojson}


def make_globals() -> dict[str, Callable[..., Any]]:
    """All functions, by name."""
    return {"range": _range, "namespace": SafeNamespace, "dict": _make_dict}


def charge_join(budget: Budget, separator: str, values: Iterable[Any] = ()) -> list[str]:
    """Charge `separator.join(values)` and return the values as strings."""
    texts = [str(value) for value in values]
    budget.size(sum(map(len, texts)) + len(separator) * len(texts))
    return texts


def charge_replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> None:
    """Charge `text.replace(old, new, count)`."""
    found = text.count(old) if count < 0 else min(count, text.count(old))
    budget.size(len(text) + found * len(new))


class SafeNamespace(Namespace):
    """`namespace()` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        for name in dict(*args[1:], **kwargs):
            _refuse_private(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError(f"a namespace cannot have an attribute {name!r}")


def _range(*args: int) -> range:
    result = range(*args)
    if len(result) > MAX_RANGE_LEN:
        raise SecurityError(f"the template makes a range of {len(result)} steps, more than {MAX_RANGE_LEN}")
    return result


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict()` as a function: the type's own attributes stay out of reach."""
    return dict(*args, **kwargs)


def _charged(plain: Callable[..., Any]) -> Callable[..., Any]:
    """One of Jinja's own filters, charged for what goes in and what comes out."""
    passed = getattr(plain, "jinja_pass_arg", None)

    @pass_context
    def charged(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.step()
        budget.value(value)
        wanted = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = () if passed is None else (wanted[passed.name],)
        result = plain(*first, value, *args, **kwargs)
        return _charge_each(budget, result) if isinstance(result, Iterator) else budget.value(result)

    return charged


def _charge_each(budget: Budget, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        budget.step()
        yield value


@pass_context
def charged_steps(context: Context, values: Any) -> Any:
    """The values of a loop, each charged as it is reached; a known length stays known to `loop`."""
    budget = budget_of(context)
    if isinstance(values, Iterator):
        return _charge_each(budget, values)
    items = list(values)
    budget.size(len(items))
    return _Steps(items, budget)


class _Steps:
    def __init__(self, items: list[Any], budget: Budget) -> None:
        self._items = items
        self._budget = budget

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return _charge_each(self._budget, self._items)


@pass_context
def charged_value(context: Context, value: Any) -> Any:
    """A value that a comparison or a slice is about to walk through."""
    return budget_of(context).value(value)


@pass_context
def charged_output(context: Context, value: Any) -> str:
    """A `{{ value }}` as text: what is written into a macro or a block is memory too."""
    text = value if isinstance(value, str) else str(value)
    budget_of(context).size(len(text))
    return text


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        environment = context.environment
        values = (environment.getitem(value, attribute) for value in values)
    return str(d).join(charge_join(budget_of(context), str(d), values))


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int = -1) -> str:
    charge_replace(budget_of(context), str(text), old, new, count)
    return str(text).replace(old, new, count)


@pass_context
def _indent(context: Context, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's `indent`, for widths that a chat can want."""
    margin_len = len(width) if isinstance(width, str) else int(width)
    if margin_len > MAX_INDENT:
        raise SecurityError(f"the template indents by {margin_len}, more than {MAX_INDENT}")
    margin = width if isinstance(width, str) else " " * margin_len
    lines = str(text).splitlines() or [""]
    budget_of(context).size(len(str(text)) + len(margin) * len(lines))
    rest = [margin + line if line or blank else line for line in lines[1:]]
    return "\n".join([margin + lines[0] if first else lines[0], *rest])


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: plain JSON, no HTML escapes."""
    if indent is not None and not 0 <= int(indent) <= MAX_INDENT:
        raise SecurityError(f"the template indents JSON by {indent}, more than {MAX_INDENT}")
    if separators is not None and sum(map(len, separators)) > MAX_INDENT:
        raise SecurityError("the template separates JSON by a long text")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    result: str = budget_of(context).value(text)
    return result
