"""A Jinja sandbox for untrusted templates, with a bound on the work of a rendering.

Chat templates come with models, so they are untrusted code. Jinja's immutable sandbox blocks access to Python's
internals. In addition the compiled template charges the rendering's budget: every block of statements for its
length when it is entered, and every operation that reads or makes a value for that value's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flover.text.template_budget import BUDGET_KEY, STEP_UNITS, Budget, ValueSize, budget_of
from flover.text.template_filters import (
    REFUSED_FILTERS,
    charged_output,
    charged_steps,
    make_filters,
)
from flover.text.template_functions import make_globals, make_tests
from flover.text.template_methods import (
    LOOKUPS,
    STRING_METHODS,
    BoundFormat,
    charge_join,
    charge_method,
    compare,
    format_percent,
)

MAX_INT_BITS = 256
_NODE_UNITS = 300
_STEPS = "\x00steps"
"""Name of the filter that charges a loop's values; not a name that a template can write."""
_REFUSED = {
    nodes.Include: "includes another template",
    nodes.Import: "imports another template",
    nodes.FromImport: "imports another template",
    nodes.Extends: "extends another template",
    nodes.ScopedEvalContextModifier: "switches autoescape",
}


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`, a mark for training; renders its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class _ChargingGenerator(CodeGenerator):
    """Compiles a template so that costly operations are methods of the environment, which charge them.

    Jinja's sandbox already sends calls, attributes and arithmetic operators to the environment.
    """

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        """Charge a block of statements for its own expressions when it is entered."""
        nodes = list(nodes)
        units = STEP_UNITS + _NODE_UNITS * sum(_count_expressions(node) for node in nodes)
        self.writeline(f"environment.step(context, {units})")
        super().blockvisit(nodes, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._made(lambda: super(_ChargingGenerator, self).visit_List(node, frame))

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._made(lambda: super(_ChargingGenerator, self).visit_Dict(node, frame))

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._made(lambda: super(_ChargingGenerator, self).visit_Tuple(node, frame))
        else:
            super().visit_Tuple(node, frame)

    def _made(self, write: Callable[[], None]) -> None:
        self.write("environment.made(context, ")
        write()
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.join_texts(context, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        if len(node.ops) == 1:
            self.write(f"environment.compare(context, {node.ops[0].op!r}, ")
            self.visit(node.expr, frame)
            self.write(", ")
            self.visit(node.ops[0].expr, frame)
            self.write(")")
            return
        self.write("(environment.compared(context, ")
        self.visit(node.expr, frame)
        for operand in node.ops:
            self.write(f") {operators[operand.op]} environment.compared(context, ")
            self.visit(operand.expr, frame)
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Const):
            super().visit_Getitem(node, frame)
            return
        if not isinstance(node.arg, nodes.Slice):
            self.write("environment.item(context, ")
            self.visit(node.node, frame)
            self.write(", ")
            self.visit(node.arg, frame)
            self.write(")")
            return
        self.write("environment.cut(context, ")
        self.visit(node.node, frame)
        for part in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            self.visit(part, frame) if part is not None else self.write("None")
        self.write(")")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        """Keep literal text as expressions, so that it is charged when written, like values."""
        raise nodes.Impossible


def _count_expressions(node: nodes.Node) -> int:
    """Number of expressions that a statement evaluates itself; nested blocks are charged when entered."""
    tests = node.elif_ if isinstance(node, nodes.If) else ()
    own = [child for child in node.iter_child_nodes() if not isinstance(child, nodes.Stmt)]
    return 1 + sum(map(_count_expressions, own)) + sum(map(_count_expressions, tests))


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. Render with `variables(…)`, which add the budget."""

    code_generator_class = _ChargingGenerator
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
            optimized=False,  # constants are computed while rendering, where they are charged
            finalize=charged_output,
            cache_size=0,
        )
        self.filters.clear()
        self.filters.update(make_filters(), **{_STEPS: charged_steps})
        self.tests.update(make_tests())
        self.globals.clear()
        self.globals.update(make_globals())

    def variables(self, variables: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        """The variables of a rendering, with the budget added."""
        return {**variables, BUDGET_KEY: budget}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Refuse unsupported features by name (`TemplateAssertionError`) and make loops charge each step."""
        template = super()._parse(source, name, filename)
        for node in template.find_all(tuple(_REFUSED)):
            raise TemplateAssertionError(f"it {_REFUSED[type(node)]}, which is not supported", node.lineno)
        for item in template.find_all(nodes.Filter):
            if item.name in REFUSED_FILTERS:
                reason = REFUSED_FILTERS[item.name]
                raise TemplateAssertionError(f"the filter {item.name} is not supported: {reason}", item.lineno)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = nodes.Filter(loop.iter, _STEPS, [], [], None, None, lineno=loop.lineno)
        return template

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether an attribute may be read; of strings, only methods whose cost is bounded."""
        if isinstance(obj, str):
            return attr in STRING_METHODS
        if isinstance(obj, int | float | bytes):
            return False
        return bool(super().is_safe_attribute(obj, attr, value))

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` and `str.format_map`, sandboxed and charged."""
        name, owner = getattr(value, "__name__", None), getattr(value, "__self__", None)
        if name not in ("format", "format_map") or not isinstance(owner, str):
            return None
        return BoundFormat(self, owner, is_map=name == "format_map")

    def step(self, context: Context, units: int) -> None:
        """Enter a block of statements."""
        budget_of(context).spend(units)

    def made(self, context: Context, value: Any) -> Any:
        """`[a, b]`, `(a, b)`, `{a: b}`"""
        return budget_of(context).made(value)

    def compare(self, context: Context, name: str, left: Any, right: Any) -> bool:
        """`a == b`, `a in b` and the like."""
        return compare(budget_of(context), name, left, right)

    def compared(self, context: Context, value: Any) -> Any:
        """An operand of a chain of comparisons, such as `a < b < c`."""
        budget_of(context).walk(value, 100)
        return value

    def cut(self, context: Context, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`; a slice is at most as large as the whole."""
        part, budget = value[start:stop:step], budget_of(context)
        if isinstance(part, list | tuple):
            budget.spend(8 * len(part))
            budget.remember(part, budget.measure(value))
            return part
        return budget.made(part)

    def item(self, context: Context, obj: Any, argument: Any) -> Any:
        """`obj[argument]`; looking up a tuple hashes all of it."""
        if isinstance(argument, tuple):
            budget_of(context).walk(argument)
        return self.getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic operators: they make new strings and lists, and can make huge integers."""
        budget = budget_of(context)
        if operator == "%" and isinstance(left, str):
            return format_percent(budget, left, right)
        if isinstance(left, int) and isinstance(right, int) and _result_bits(operator, left, right) > MAX_INT_BITS:
            raise SecurityError("the template makes a huge number")
        if operator == "*" and isinstance(left, str | list | tuple) and isinstance(right, int):
            return self._repeat(budget, left, right)
        if operator == "*" and isinstance(right, str | list | tuple) and isinstance(left, int):
            return self._repeat(budget, right, left)
        if operator != "+" or not isinstance(left, str | list | tuple):
            return super().call_binop(context, operator, left, right)
        if isinstance(right, str):
            budget.check_size(len(left) + len(right))
            return budget.made(super().call_binop(context, operator, left, right))
        result = super().call_binop(context, operator, left, right)
        budget.spend(8 * len(result))
        one, other = budget.measure(left), budget.measure(right)
        budget.remember(
            result, ValueSize(one.units + other.units, max(one.depth, other.depth), one.plain and other.plain)
        )
        return result

    def _repeat(self, budget: Budget, value: Any, times: int) -> Any:
        size = budget.measure(value)
        budget.check_size(len(value) * max(times, 0) if isinstance(value, str) else size.units * max(times, 0))
        result = value * times
        if isinstance(value, list | tuple):
            budget.remember(result, ValueSize(size.units * max(times, 1), size.depth, size.plain))
        return result

    def join_texts(self, context: Context, parts: tuple[Any, ...]) -> str:
        """`a ~ b ~ …`"""
        made: str = budget_of(context).made(str_join(charge_join(budget_of(context), "", parts)))
        return made

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template: methods, macros, functions, recursive loops."""
        budget = budget_of(context)
        budget.spend(2 * STEP_UNITS)
        if isinstance(obj, BoundFormat):
            return obj.format(budget, args, {name: kwargs[name] for name in kwargs if not name.startswith("_")})
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(obj, LoopContext):
            args = (charged_steps(context, *args),)
        elif isinstance(owner, str) and name == "join":
            values = list(budget.each(*args))
            args = (charge_join(budget, owner, values) if all(isinstance(v, str) for v in values) else values,)
        elif isinstance(owner, str):
            charge_method(budget, owner, name, args, kwargs)
        elif isinstance(owner, list | tuple | dict | LoopContext):
            budget.walk(None if name in LOOKUPS or isinstance(owner, LoopContext) else owner)
            for value in args:
                budget.walk(value)
        result = super().call(context, obj, *args, **kwargs)
        return budget.each(result) if isinstance(result, Iterator) else budget.made(result)


def _result_bits(operator: str, left: int, right: int) -> float:
    """An upper bound of the bits of the operands and the result."""
    bits = max(left.bit_length(), right.bit_length())
    if operator == "*":
        return left.bit_length() + right.bit_length()
    if operator == "**":
        return max(bits, left.bit_length() * max(right, 1))
    return bits
