"""Jinja's tests and functions, each charged to the rendering's budget; `dict` is that of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import safe_range
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Joiner, Namespace, pass_context

from flover.text.template_budget import Budget, budget_of
from flover.text.template_methods import compare, format_percent

# fmt: off
_COMPARING_TESTS = {
    "==": "eq", "eq": "eq", "equalto": "eq", "!=": "ne", "ne": "ne", ">": "gt", "gt": "gt", "greaterthan": "gt",
    ">=": "gteq", "ge": "gteq", "<": "lt", "lt": "lt", "lessthan": "lt", "<=": "lteq", "le": "lteq", "in": "in",
}
_REMAINDER_TESTS = {"odd": 0, "even": 0, "divisibleby": 1}
"""Tests that use `%`, with their number of arguments."""
# fmt: on


def make_tests() -> dict[str, Callable[..., Any]]:
    """All tests, by name; those that only check a value's type are Jinja's own."""
    own: dict[str, Any] = dict(TESTS.items())
    own |= {name: _comparing_test(operator) for name, operator in _COMPARING_TESTS.items()}
    own |= {name: _remainder_test(TESTS[name], arguments) for name, arguments in _REMAINDER_TESTS.items()}
    own |= {name: _text_test(TESTS[name]) for name in ("lower", "upper")}
    return own


def make_globals() -> dict[str, Any]:
    """All functions, by name. `dict.fromkeys` is there as in transformers."""
    setattr(_make_dict, "fromkeys", _dict_fromkeys)  # noqa: B010 - functions have no declared attributes
    return {
        "range": safe_range,
        "namespace": SafeNamespace,
        "dict": _make_dict,
        "cycler": _make_cycler,
        "joiner": _make_joiner,
        "lipsum": _refuse_lipsum,
    }


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
        raise SecurityError(f"a namespace cannot have an attribute {str(name)[:64]!r}")


@pass_context
def _make_dict(context: Context, *args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict` as a function, without access to the type's attributes."""
    pairs = tuple(_keyed(budget_of(context), value) for value in args)
    return dict(*pairs, **kwargs)


@pass_context
def _dict_fromkeys(context: Context, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
    return dict.fromkeys(_keyed(budget_of(context), keys), value)


def _keyed(budget: Budget, values: Any) -> Any:
    """Charge values that become keys: numbers with equal hashes are each compared with all others."""
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        budget.walk(values)
        return values
    pairs = list(values)
    budget.walk(pairs)
    budget.spend(10 * len(pairs) ** 2)
    return pairs


def _make_cycler(*items: Any) -> Cycler:
    return Cycler(*items)


def _make_joiner(sep: str = ", ") -> Joiner:
    return Joiner(sep)


def _refuse_lipsum(*_: Any, **__: Any) -> str:
    raise SecurityError("the template calls lipsum, which writes random text")


def _comparing_test(operator: str) -> Callable[..., bool]:
    @pass_context
    def test(context: Context, value: Any, other: Any) -> bool:
        return compare(budget_of(context), operator, value, other)

    return test


def _remainder_test(plain: Any, arguments: int) -> Callable[..., bool]:
    @pass_context
    def test(context: Context, value: Any, *args: Any) -> bool:
        if isinstance(value, str) and len(args) == arguments:  # % would format the string
            format_percent(budget_of(context), value, *(args or (2,)))
            return False
        return bool(plain(value, *args))

    return test


def _text_test(plain: Any) -> Callable[..., bool]:
    @pass_context
    def test(context: Context, value: Any) -> bool:
        return bool(plain(budget_of(context).text(value)))

    return test
