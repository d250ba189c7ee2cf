"""A Jinja environment for templates that nobody has read: no way out of it, and a bound on what a rendering costs.

Chat templates come with models, so they are foreign programs. Jinja's immutable sandbox keeps them away from Python's
internals; on top of that there are only the filters, functions and string methods that chat templates use, and loops,
calls, operators and output are charged to the rendering's budget. Knows nothing of chats.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flover.text.template_budget import BUDGET_KEY, Budget, budget_of
from flover.text.template_filters import (
    charge_join,
    charge_replace,
    charged_output,
    charged_steps,
    charged_value,
    make_filters,
    make_globals,
)

MAX_INT_BITS = 256

# fmt: off
_STRING_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit",
    "isidentifier", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip",
    "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit",
    "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title", "upper",
))
# fmt: on


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what training is for; here it is just its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _ChargingGenerator(CodeGenerator):
    """Compiles `a ~ b` to a call of the environment; Jinja's sandbox intercepts the other operators itself."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.join_texts(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. Render with `variables(…)`, which add the budget."""

    code_generator_class = _ChargingGenerator
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            optimized=False,  # constants are computed in the rendering, where they are charged
            finalize=charged_output,
            cache_size=0,
        )
        self.filters.clear()
        self.filters.update(make_filters(), charged_steps=charged_steps, charged_value=charged_value)
        self.globals.clear()
        self.globals.update(make_globals())
        self.tests.pop("in")

    def variables(self, literal_len: int, **variables: Any) -> dict[str, Any]:
        """What to render with: the given variables and a fresh budget."""
        return {**variables, BUDGET_KEY: Budget(literal_len=literal_len)}

    def literal_len(self, source: str) -> int:
        """Characters of text in a template, outside of its statements. Raises `TemplateSyntaxError`."""
        return sum(len(part.data) for part in self.parse(source).find_all(nodes.TemplateData))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Strings have the methods that chat templates use and that make no huge values."""
        if isinstance(obj, str):
            return attr in _STRING_METHODS
        if isinstance(obj, int | float | bytes):
            return False
        return bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` is not among the methods, not even in Jinja's guarded form: it can pad without limit."""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operators whose result may be much larger than what goes in."""
        budget = budget_of(context)
        sized = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        if operator == "%" and isinstance(left, str):
            raise SecurityError("the template formats text with %")
        if operator == "*" and sized:
            count = right if sized[0] is left else left
            budget.size(len(sized[0]) * max(int(count), 0))
        elif operator == "+" and len(sized) == 2:
            budget.size(len(left) + len(right))
        elif operator in ("*", "**") and _result_bits(operator, left, right) > MAX_INT_BITS:
            raise SecurityError("the template makes a huge number")
        return super().call_binop(context, operator, left, right)

    def join_texts(self, context: Context, parts: tuple[Any, ...]) -> str:
        """`a ~ b ~ …`"""
        return "".join(charge_join(budget_of(context), "", parts))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call that a template makes: methods, macros, functions, recursive loops."""
        budget = budget_of(context)
        budget.step()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(obj, LoopContext):
            args = (charged_steps(context, *args),)
        if isinstance(owner, str):
            budget.size(len(owner))
        if isinstance(owner, str) and name == "replace":
            charge_replace(budget, owner, *args)
        if isinstance(owner, str) and name == "join":
            args = (charge_join(budget, owner, *args),)
        return budget.value(super().call(context, obj, *args, **kwargs))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Makes loops charge their steps, comparisons and slices the values that they walk through."""
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = _filtered(loop.iter, "charged_steps")
        for operand in list(template.find_all(nodes.Operand)):
            operand.expr = _filtered(operand.expr, "charged_value")
        for item in list(template.find_all(nodes.Getitem)):
            if isinstance(item.arg, nodes.Slice):
                item.node = _filtered(item.node, "charged_value")
        return template


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _result_bits(operator: str, left: Any, right: Any) -> float:
    if not (isinstance(left, int) and isinstance(right, int)):
        return 0
    if operator == "*":
        return left.bit_length() + right.bit_length()
    return left.bit_length() * max(right, 1)
