"""What a client or a supervisor of engines calls, in its event loop. Given at construction; by default nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flover.engine.stats import EngineStats
from flover.errors import FloverError
from flover.observe.timeline import Iteration
from flover.service.in_flight import InFlightRequest, fail_all


@dataclass(frozen=True, slots=True)
class EngineListener:
    """The listener of one `EngineClient`."""

    on_loading: Callable[..., None] = lambda *progress: None
    """Bytes of weights loaded, and in all. A third argument says what else is counted: captured graphs, after them."""
    on_stats: Callable[[EngineStats], None] = lambda stats: None
    """Every snapshot of the engine."""
    on_iteration: Callable[[Iteration], None] = lambda iteration: None
    """Every iteration, while `watch` is on."""
    on_death: Callable[[Sequence[InFlightRequest], FloverError], None] = fail_all
    """Once, when the engine is gone: the requests that were open in it, and why. By default they fail."""


@dataclass(frozen=True, slots=True)
class SupervisorListener:
    """The listener of one `Supervisor`. Replicas are numbered from 0."""

    on_loading: Callable[..., None] = lambda *progress: None
    """Likewise, the bytes of all replicas together; at the first start alone."""
    on_stats: Callable[[int, EngineStats], None] = lambda replica, stats: None
    """A replica and every snapshot of its engine."""
    on_iteration: Callable[[int, Iteration], None] = lambda replica, iteration: None
    """A replica and every iteration of its engine, while `watch` is on."""
