"""Jinja's filters, each charged to the rendering's budget.

Results are those of Jinja, of `tojson` those of transformers. Unsupported filters are refused by name when
a template is loaded (`REFUSED_FILTERS`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.utils import pass_context

from flover.text.template_budget import ITEM_SIZE, STEP_UNITS, Budget, budget_of
from flover.text.template_methods import (
    CASE_WEIGHT,
    charge_join,
    charge_replace,
    charge_strip,
    charge_width,
    format_percent,
)

# fmt: off
REFUSED_FILTERS = {
    "pprint": "it is for debugging", "random": "a prompt would differ from one request to the next",
    "urlize": "a prompt is no web page", "wordwrap": "a prompt is no page",
}
"""Unsupported filters and the reasons."""
_WEIGHTS = {
    "d": 0, "default": 0, "first": 0, "last": 0, "length": 0, "count": 0, "items": 0, "attr": 0,
    "capitalize": CASE_WEIGHT, "lower": CASE_WEIGHT, "upper": CASE_WEIGHT, "title": 128, "urlencode": 64,
    "wordcount": 64, "dictsort": 32, "xmlattr": 32,
}
_WEIGHT = 4
_EACH = frozenset((
    "batch", "groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "slice", "sort",
    "sum", "unique",
))
"""Filters that visit each item of a value."""
_SORTING = frozenset(("dictsort", "groupby", "sort"))
_TEXT_ONLY = frozenset((
    "capitalize", "center", "e", "escape", "forceescape", "lower", "safe", "string", "striptags", "title", "trim",
    "upper", "wordcount",
))
"""Filters that convert their input to text."""
# fmt: on
_MAX_PRECISION = 300
_MAX_PATH_LEN = 256
_MAX_PATH_PARTS = 16
_MAX_PADDING = 64


def make_filters() -> dict[str, Callable[..., Any]]:
    """All filters, by name."""
    own = {name: _charged(name, plain) for name, plain in FILTERS.items() if name not in REFUSED_FILTERS}
    return own | {"join": _join, "tojson": _tojson, "sum": _sum, "format": _format}


def _charged(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja, charged for its inputs and its result."""
    passed = getattr(plain, "jinja_pass_arg", None)
    weight = _WEIGHTS.get(name, _WEIGHT)
    check = _CHECKS.get(name)

    @pass_context
    def charged(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        if name in _EACH:
            value = _charge_items(budget, name, value, (*args, *kwargs.values()))
        for given in (*args, *kwargs.values()):
            budget.walk(given)
        if name in _TEXT_ONLY:
            value = budget.text(value)
        if check is not None:
            check(budget, value, *args, **kwargs)
        if weight and not (name in _EACH and name not in _SORTING):
            depth = len(value).bit_length() if name in _SORTING and isinstance(value, Sized) else 1
            budget.walk(value, weight * depth)
        wanted = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
        first = () if passed is None else (wanted[passed.name],)
        result = plain(*first, value, *args, **kwargs)
        return budget.each(result) if isinstance(result, Iterator) else budget.made(result)

    return charged


def _charge_items(budget: Budget, name: str, values: Any, args: tuple[Any, ...]) -> Any:
    """Charge a filter for each item; attribute paths are looked up one name at a time."""
    parts = 1
    for path in args:
        if isinstance(path, str):
            found = path.count(".") + path.count(",") + 1
            if name not in ("map", "batch", "slice") and (len(path) > _MAX_PATH_LEN or found > _MAX_PATH_PARTS):
                raise SecurityError(f"the template looks up a path of more than {_MAX_PATH_PARTS} names")
            parts = max(parts, found)
    units = STEP_UNITS * parts
    if name in _SORTING and isinstance(values, Iterator):
        values = list(budget.each(values))
    if name == "unique":
        return _charge_positions(budget, values, units)
    if isinstance(values, Sized):
        budget.spend(len(values) * units)
        if name in ("min", "max"):
            budget.walk(values)
        return values
    return budget.each(values, units) if isinstance(values, Iterator) else values


def _charge_positions(budget: Budget, values: Iterable[Any], units: int) -> Iterator[Any]:
    """Charge items that are put into a set: see `_keyed`."""
    for position, value in enumerate(values):
        budget.spend(units + 10 * position)
        budget.walk(value)
        yield value


def _check_indent(budget: Budget, text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> None:
    if isinstance(text, str):
        margin = len(width) if isinstance(width, str) else width if isinstance(width, int) else 0
        budget.walk(text, 8)
        budget.check_size(len(text) + margin * (len(text.splitlines()) + 1))


def _check_replace(budget: Budget, text: Any, old: Any, new: Any, count: Any = None) -> None:
    charge_replace(budget, budget.text(text), budget.text(old), budget.text(new), -1 if count is None else count)


def _check_round(budget: Budget, value: Any, precision: Any = 0, method: str = "common") -> None:
    if not isinstance(value, int | float):
        raise TypeError(f"cannot round a {type(value).__name__}")
    if isinstance(precision, int) and abs(precision) > _MAX_PRECISION:
        raise SecurityError(f"the template rounds to {precision} digits, more than {_MAX_PRECISION}")


def _check_batch(budget: Budget, values: Any, linecount: Any, fill_with: Any = None) -> None:
    if isinstance(linecount, int) and fill_with is not None:
        budget.check_size(linecount * ITEM_SIZE)


def _check_plain(budget: Budget, value: Any, *_: Any) -> None:
    """Refuse a value that cannot be written as text."""
    if not isinstance(value, Iterator) and not budget.measure(value).plain:
        raise SecurityError(f"the template writes as text what is none: {type(value).__name__}")


def _check_striptags(budget: Budget, text: Any) -> None:
    """Each tag is cut out of a copy of the text."""
    budget.spend(len(text) * (1 + text.count("<") // 4))


def _check_int(budget: Budget, value: Any, default: Any = 0, base: Any = 10) -> None:
    if isinstance(value, str) and len(value) > _MAX_PRECISION and base != 10:
        raise SecurityError(f"the template reads a number of {len(value)} digits, more than {_MAX_PRECISION}")


def _check_trim(budget: Budget, value: Any, chars: Any = None) -> None:
    if isinstance(value, str):
        charge_strip(budget, value, chars)


def _check_center(budget: Budget, value: Any, width: Any = 80) -> None:
    charge_width(budget, width)


_CHECKS: dict[str, Callable[..., None]] = {
    "batch": _check_batch,
    "center": _check_center,
    "indent": _check_indent,
    "int": _check_int,
    "replace": _check_replace,
    "round": _check_round,
    "striptags": _check_striptags,
    "trim": _check_trim,
    "urlencode": _check_plain,
    "xmlattr": _check_plain,
}


@pass_context
def charged_steps(context: Context, values: Any) -> Any:
    """The values of a loop, each charged when reached; `loop` still sees a known length."""
    budget = budget_of(context)
    return _Steps(values, budget) if isinstance(values, Sized) else budget.each(values)


class _Steps:
    def __init__(self, items: Any, budget: Budget) -> None:
        self._items = items
        self._budget = budget

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._budget.each(self._items))


@pass_context
def charged_output(context: Context, value: Any) -> str:
    """A `{{ value }}` as text, charged: output captured by a macro or a block uses memory too."""
    return budget_of(context).text(value)


@pass_context
def _join(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    budget = budget_of(context)
    if attribute is not None:
        # `iter`, since `map` takes any false value for an empty list.
        value = FILTERS["map"](context, iter(value), attribute=attribute)
        value = _charge_items(budget, "join", value, (attribute,))
    elif isinstance(value, Sized):
        budget.spend(len(value) * STEP_UNITS)
    separator = budget.text(d)
    made: str = budget.made(separator.join(charge_join(budget, separator, list(value))))
    return made


@pass_context
def _sum(context: Context, value: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    budget = budget_of(context)
    value = list(_charge_items(budget, "sum", value, (attribute,)))
    budget.walk(value)
    if isinstance(start, list | tuple):  # each sum of lists is a new list
        budget.check_size(budget.measure(start).units + budget.measure(value).units)
        budget.spend(8 * (len(value) + 1) * (budget.measure(value).units // ITEM_SIZE + len(start)))
    return budget.made(FILTERS["sum"](context.environment, value, attribute, start))


@pass_context
def _format(context: Context, value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("can't handle positional and keyword arguments at the same time")
    budget = budget_of(context)
    return format_percent(budget, budget.text(value), kwargs or args)


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: plain JSON, no HTML escapes."""
    budget = budget_of(context)
    size = budget.measure(value)
    margin = len(indent) if isinstance(indent, str) else indent if isinstance(indent, int) else 0
    between = sum(map(len, separators)) if separators is not None else 0
    if margin > _MAX_PADDING or between > _MAX_PADDING:
        raise SecurityError(f"the template pads JSON by more than {_MAX_PADDING} characters")
    budget.check_size(size.units + (max(margin, 0) * size.depth + between) * (size.units // ITEM_SIZE))
    budget.spend(size.units * (4 if indent is None else 16))
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    made: str = budget.made(text)
    return made
