"""What watches a loop. An observer is called with what happened and changes nothing.

The loop calls its observers in the thread that steps, in this order: `took`, `planned`, `ran` if a plan was finished,
`stepped`. With asynchronous scheduling that is the plan before; after a fault nothing is heard of later ones in flight.
What they are handed is frozen, or belongs to the loop and is only to be read before they return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from flover.engine.plan import RowResult, StepPlan
from flover.engine.queue import Cancel
from flover.engine.roster import Roster
from flover.request import Delta, Request


class ExecutedPlan(msgspec.Struct, frozen=True):
    """The outcome of a plan. `started` is the engine's clock; a run that raised has no rows."""

    plan: StepPlan
    started: float
    milliseconds: float
    rows: Mapping[int, RowResult]
    fault: str | None = None
    """What was raised."""
    offload_error: str | None = None


class Observer:
    """Ignores everything; the others override what they need."""

    def attached(self, roster: Roster, born: float) -> None:
        """The first call: the engine as it stands now, and its clock when it was made."""

    def took(self, inputs: Sequence[Request | Cancel]) -> None:
        """A step has begun with these arrivals and cancellations."""

    def planned(self, roster: Roster, plan: StepPlan | None) -> None:
        """The scheduler has planned; the roster is as the plan left it."""

    def ran(self, run: ExecutedPlan) -> None:
        """The executor has returned or raised. Nothing is committed yet."""

    def stepped(self, roster: Roster, deltas: Sequence[Delta]) -> None:
        """The step is over; the roster is as the next one will find it."""

    def forgot(self) -> None:
        """Between two steps every prefix was forgotten."""

    def close(self) -> None:
        """The last call: the engine closes, or the observer was taken away."""
