"""What the rendering of a template may cost, and who has to pay.

One unit is about one character that is made or looked at. Loops and calls pay a fixed price per step, which bounds
the time of a rendering; values pay for their length, which bounds its memory.
"""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

BUDGET_KEY = "\x00budget"
"""Name of the budget among the variables of a rendering; no template can write this name."""
MAX_UNITS = 2**28
STEP_UNITS = 1000
MAX_VALUE_LEN = 2**22
"""Most characters or items of one value."""


class Budget:
    """What is left of a rendering's allowance."""

    __slots__ = ("_left", "_step_units")

    def __init__(self, *, literal_len: int = 0) -> None:
        """`literal_len` is the length of the text in the template itself, which any step may write."""
        self._left = MAX_UNITS
        self._step_units = STEP_UNITS + literal_len

    def spend(self, units: int) -> None:
        """Charge `units`; raises `SecurityError` when nothing is left."""
        self._left -= units
        if self._left < 0:
            raise SecurityError("the template costs more than a rendering may")

    def step(self) -> None:
        """Charge one step of a loop, or one call."""
        self.spend(self._step_units)

    def size(self, length: int) -> None:
        """Charge a value of this length, before it is made."""
        if length > MAX_VALUE_LEN:
            raise SecurityError(f"the template makes a value of length {length}, more than {MAX_VALUE_LEN}")
        self.spend(length)

    def value(self, value: Any) -> Any:
        """Charge a value that is there already, and return it."""
        if isinstance(value, str | list | tuple | dict):
            self.size(len(value))
        return value


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that `context` belongs to. Raises `KeyError` if it was started without one."""
    budget: Budget = context.parent[BUDGET_KEY]
    return budget
