"""The costs of string methods, comparisons and formatting, charged to the budget before they run.

Python's string methods run in C and hold the GIL, so calls that could take long are refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

from flover.text.template_budget import Budget

# fmt: off
STRING_METHODS = frozenset((
    "capitalize", "casefold", "center", "count", "endswith", "expandtabs", "find", "format", "format_map", "index",
    "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable",
    "isspace", "istitle", "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix",
    "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith",
    "strip", "swapcase", "title", "upper", "zfill",
))
"""String methods that a template may call."""
_PADDING = frozenset(("center", "ljust", "rjust", "zfill"))
_STRIPPING = frozenset(("strip", "lstrip", "rstrip"))
_SEARCHING = frozenset(("count", "find", "index", "partition", "replace", "split"))
_SEARCHING_BACK = frozenset(("rfind", "rindex", "rpartition", "rsplit"))
_CHANGING_CASE = frozenset(("capitalize", "casefold", "lower", "swapcase", "title", "upper"))
LOOKUPS = frozenset(("get", "items", "keys", "values"))
"""Methods of objects with constant cost."""
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt,
    "gteq": operator.ge, "in": lambda left, right: left in right, "notin": lambda left, right: left not in right,
}
"""Jinja's comparisons, by the names of its compiler."""
# fmt: on
CASE_WEIGHT = 8
_MAX_SIMPLE_SEARCH_LEN = 30_000
_FORMAT_SPEC = re.compile(r"%(?:\([^()]*\))?[#0\- +]*(\*|\d+)?(?:\.(\*|\d+)?)?[hlL]?")


def compare(budget: Budget, name: str, left: Any, right: Any) -> bool:
    """The result of one comparison."""
    if isinstance(left, str) and isinstance(right, str) and name in ("in", "notin"):
        charge_search(budget, right, left)
    else:
        budget.walk(left)
        budget.walk(None if isinstance(right, dict) and name in ("in", "notin") else right)
    return COMPARISONS[name](left, right)


def charge_search(budget: Budget, text: str, wanted: Any) -> None:
    """Charge a search for `wanted`: CPython searches naively in short texts or for short strings."""
    wanted_len = len(wanted) if isinstance(wanted, str) else 1
    budget.spend(len(text) * min(wanted_len, 100 if len(text) < _MAX_SIMPLE_SEARCH_LEN else 6) + wanted_len)


def charge_strip(budget: Budget, text: str, chars: Any = None) -> None:
    """Charge `text.strip(chars)`, which looks each character up in all of `chars`."""
    budget.spend(len(text) * (1 + len(chars) // 8 if isinstance(chars, str) else 1))


def charge_join(budget: Budget, separator: str, values: Sequence[Any]) -> list[str]:
    """Charge `separator.join(values)` and return the values as strings."""
    texts = [budget.text(value) for value in values]
    budget.check_size(sum(map(len, texts)) + len(separator) * len(texts))
    return texts


def charge_replace(budget: Budget, text: str, old: str, new: str, count: int = -1) -> None:
    """Charge `text.replace(old, new, count)`."""
    charge_search(budget, text, old)
    found = text.count(old)
    budget.check_size(len(text) + (found if count < 0 else min(count, found)) * len(new))


def charge_width(budget: Budget, width: Any) -> None:
    """Charge padding to a width; refuse an invalid width."""
    if isinstance(width, int):
        budget.check_size(width)


def charge_method(budget: Budget, text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Charge the call of a method of `text`; `join`, `format` and `format_map` are charged where they run."""
    first = args[0] if args else kwargs.get("sep")
    for value in args:
        budget.walk(value)
    if name in _SEARCHING and isinstance(first, str):
        charge_search(budget, text, first)
    elif name in _SEARCHING_BACK and isinstance(first, str):
        budget.spend(len(text) * len(first))
    elif name in _STRIPPING:
        charge_strip(budget, text, first)
    else:
        budget.spend(len(text) * (CASE_WEIGHT if name in _CHANGING_CASE else 4))
    if name == "replace" and all(isinstance(value, str) for value in args[:2]):
        charge_replace(budget, text, *args)
    elif name in ("split", "rsplit") and isinstance(first, str) and first:
        most = args[1] if len(args) > 1 else kwargs.get("maxsplit", -1)
        found = text.count(first)
        budget.check_size(len(text) + 100 * (min(found, most) if isinstance(most, int) and most >= 0 else found))
    elif name in _PADDING:
        charge_width(budget, first)
    elif name == "expandtabs":
        tab_len = args[0] if args else kwargs.get("tabsize", 8)
        budget.check_size(len(text) + text.count("\t") * (tab_len if isinstance(tab_len, int) else 0))


def format_percent(budget: Budget, text: str, values: Any) -> str:
    """`text % values`."""
    specs = _FORMAT_SPEC.findall(text)
    widths = [number for spec in specs for number in spec if number]
    if "*" in widths:
        raise SecurityError("the template formats text with a width that is a value (%*)")
    if any(len(number) > 9 for number in widths):
        raise SecurityError("the template formats text to a huge width")
    size = budget.measure(values)
    if not size.plain:
        raise SecurityError("the template formats a value that cannot be written as text")
    times = len(specs) if isinstance(values, Mapping) else 1
    budget.check_size(len(text) + sum(map(int, widths)) + times * size.units)
    made: str = budget.made(text % values)
    return made


class BoundFormat:
    """`text.format` or `text.format_map` as a template value; charges each formatted value."""

    def __init__(self, environment: SandboxedEnvironment, text: str, *, is_map: bool) -> None:
        self._environment = environment
        self._text = text
        self._is_map = is_map

    def format(self, budget: Budget, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The formatted text."""
        if self._is_map:
            if kwargs or len(args) != 1:
                raise TypeError("format_map() takes exactly one argument")
            kwargs, args = args[0], ()
        budget.spend(100 * len(self._text))
        formatter = _Formatter(self._environment)
        if isinstance(self._text, Markup):
            formatter = _EscapeFormatter(self._environment, escape=self._text.escape)
        formatter.budget = budget
        made: str = budget.made(type(self._text)(formatter.vformat(self._text, args, kwargs)))
        return made


class _Formatter(SandboxedFormatter):
    """Python's format language with sandboxed attributes and bounded widths."""

    budget: Budget

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion is not None:
            self.budget.text(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        numbers = re.findall(r"\d+", format_spec)
        if any(len(number) > 9 for number in numbers):
            raise SecurityError("the template formats text to a huge width")
        self.budget.check_size(sum(map(int, numbers)))
        self.budget.text(value)
        return self.budget.made(super().format_field(value, format_spec))


class _EscapeFormatter(_Formatter, SandboxedEscapeFormatter):
    pass
