"""The work budget of a template rendering, and the limits on size and depth of its values.

A unit is about a nanosecond of work. Statements are charged as they run; operations that traverse a value are
charged for its size as a tree, in which a shared part counts every time it is reached. Sizes are
cached, so that a value of a million parts made of forty lists is measured, and refused, in forty steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined

BUDGET_KEY = "\x00budget"
"""Name of the budget among the variables of a rendering; not a name that a template can write."""
BASE_UNITS = 50_000_000
UNITS_PER_INPUT = 128
"""Work allowed for each unit of size of the conversation, beyond `BASE_UNITS`."""
MAX_UNITS = 1_000_000_000
BASE_SIZE = 2**21
SIZE_PER_INPUT = 16
MAX_SIZE = 2**26
MAX_DEPTH = 100
"""Maximum nesting of lists and objects; Python hashes nested tuples on the C stack."""
MAX_SECONDS = 1.0
"""Maximum processor time of one rendering, in seconds, independent of the units."""
ITEM_SIZE = 100
"""Size of a value besides its text: the approximate cost of visiting one leaf."""
STEP_UNITS = 800
_CLOCK_UNITS = 1_000_000
_COLLISION_UNITS = 10

_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS = (list, tuple, dict, *_VIEWS)
_ATOMS = (int, float, complex, type(None), range, Undefined)


class ValueSize(NamedTuple):
    """Size of a value as a tree, its nesting depth, and whether all of it can be written as text."""

    units: int
    depth: int
    plain: bool


_ATOM = ValueSize(ITEM_SIZE, 0, plain=True)
_OPAQUE = ValueSize(ITEM_SIZE, 0, plain=False)


class Budget:
    """The remaining budget of a rendering, which grows with the size of its inputs.

    `clock` is the processor time of the thread, so that other load on the machine does not count. Raises
    `SecurityError`, as all methods do, if the inputs are nested too deeply.
    """

    __slots__ = ("_check_at", "_clock", "_deadline", "_left", "_max_size", "_sizes")

    def __init__(self, inputs: Any, *, base_units: int = BASE_UNITS, clock: Callable[[], float] = time.thread_time):
        self._sizes: dict[int, tuple[Any, ValueSize]] = {}
        self._max_size = 2**62
        size = self.measure(inputs).units
        self._max_size = max(size, min(BASE_SIZE + SIZE_PER_INPUT * size, MAX_SIZE))
        self._left = min(base_units + UNITS_PER_INPUT * size, MAX_UNITS)
        self._check_at = self._left - _CLOCK_UNITS
        self._clock = clock
        self._deadline = clock() + MAX_SECONDS

    def spend(self, units: int) -> None:
        """Charge `units` of work."""
        self._left -= units
        if self._left < self._check_at:
            self._check()

    def _check(self) -> None:
        self._check_at = self._left - _CLOCK_UNITS
        if self._left < 0 or self._clock() > self._deadline:
            raise SecurityError("the template costs more than a rendering may")

    def check_size(self, size: int) -> None:
        """Refuse a value that would be too large, before it is made."""
        if size > self._max_size:
            raise SecurityError(f"the template makes a value of size {size}, more than {self._max_size}")
        self.spend(max(size, 0))

    def measure(self, value: Any) -> ValueSize:
        """The size of a value. Values of a rendering are immutable, so each is traversed once."""
        if isinstance(value, str):
            return ValueSize(ITEM_SIZE + len(value), 0, plain=True)
        if isinstance(value, _CONTAINERS):
            known = self._sizes.get(id(value))
            return known[1] if known is not None else self.remember(value, self._measure_parts(value))
        return _ATOM if isinstance(value, _ATOMS) else _OPAQUE

    def remember(self, value: Any, size: ValueSize) -> ValueSize:
        """Cache the size of a new value and check it."""
        if size.depth > MAX_DEPTH:
            raise SecurityError(f"the template nests lists and objects more than {MAX_DEPTH} deep")
        if size.units > self._max_size:
            raise SecurityError(f"the template makes a value of size {size.units}, more than {self._max_size}")
        self._sizes[id(value)] = value, size
        return size

    def _measure_parts(self, value: Any) -> ValueSize:
        units, depth, plain, odd_keys = ITEM_SIZE, 0, True, 0
        for part in value:
            size = self.measure(part)
            units += size.units
            depth = max(depth, size.depth)
            plain = plain and size.plain
            if isinstance(value, dict):
                item = self.measure(value[part])
                units += item.units
                depth = max(depth, item.depth)
                plain = plain and item.plain
                odd_keys += not isinstance(part, str)
            if units > self._max_size:
                break
        # numbers can be chosen to have equal hashes; the hashes of strings are seeded
        return ValueSize(units + _COLLISION_UNITS * odd_keys**2, depth + 1, plain)

    def walk(self, value: Any, weight: int = 1) -> None:
        """Charge an operation that traverses a value."""
        self.spend(weight * self.measure(value).units)

    def made(self, value: Any) -> Any:
        """Charge a newly made value and return it."""
        if isinstance(value, str):
            self.check_size(len(value))
            self.spend(3 * len(value))
        elif isinstance(value, _CONTAINERS):
            self.spend(self.measure(value).units // 8)
        return value

    def text(self, value: Any) -> str:
        """`str(value)`, charged; refused where Python would write an address or a class."""
        if isinstance(value, str):
            self.spend(len(value))
            return value
        size = self.measure(value)
        if not size.plain:
            raise SecurityError(f"the template writes as text what is none: {type(value).__name__}")
        self.spend(4 * size.units)
        made: str = self.made(str(value))
        return made

    def each(self, values: Iterable[Any], units: int = STEP_UNITS) -> Iterable[Any]:
        """The values of an iterator, each charged as it is reached."""
        for value in values:
            self.spend(units)
            self.measure(value)
            yield value


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that `context` belongs to. Raises `KeyError` if it was started without one."""
    budget: Budget = context.parent[BUDGET_KEY]
    return budget
