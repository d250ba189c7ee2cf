"""One seed, one run: the real engine on the simulated device, watched by the laws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from flover.engine.loop import Engine
from flover.errors import EngineDeadError, RequestError
from flover.request import ModelFacts, Request, check_request

from .broken import LawBroken, require
from .device import Clock, SimDevice
from .history import History
from .laws import Laws, Tracked
from .workload import CancelPlan, draw_scenario

LIGHT_P = 0.05
"""How likely the client that sends few sends a request in an iteration, however many are open."""


@dataclass(slots=True)
class Outcome:
    """What a run has seen."""

    seed: int
    flavour: str
    trace_hash: str
    counts: Counter[str]


class RunFailed(AssertionError):  # noqa: N818
    """A law was broken in a run. The message has the seed, the command that replays it, and the last events."""

    def __init__(self, seed: int, steps: int, broken: LawBroken, history: str) -> None:
        replay = f"python -m tests.simulation {seed} --steps {steps}"
        super().__init__(f"seed {seed}: {broken}\nreplay: {replay}\n{history}\nseed {seed}: {broken}\nreplay: {replay}")
        self.seed = seed
        self.law = broken.law
        self.broken = broken


class Simulation:
    """Drives an engine until `steps` iterations are over and everybody has gone."""

    def __init__(self, seed: int, steps: int = 1000) -> None:
        self.seed = seed
        self.steps = steps
        self.scenario = draw_scenario(seed)
        self.history = History()
        self.clock = Clock()
        self.laws = Laws(self.scenario)
        self.device = SimDevice(self.scenario, self.clock, self.laws, self._while_running, self.history)
        self.engine = Engine(self.device, self.scenario.config, self.clock)
        self._next_arrival = 0.0
        self._cancels: list[tuple[CancelPlan, list[Tracked], int]] = []

    def run(self) -> Outcome:
        """Run to the end. Raises `RunFailed` if a law is broken."""
        try:
            self._run()
        except LawBroken as broken:
            raise RunFailed(self.seed, self.steps, broken, self.history.render()) from broken
        return Outcome(self.seed, self.scenario.flavour, self.history.trace_hash, self.laws.counts)

    def _run(self) -> None:
        laws, engine = self.laws, self.engine
        while True:
            if laws.step < self.steps:
                self._submit_due()
            self._cancel_due()
            if engine.has_work:
                self._iterate()
                continue
            laws.at_idle(engine)
            require("L4", not engine.wait(0), "idle, but the engine has something to do")
            if laws.step >= self.steps:
                break
            self.clock.now = max(self.clock.now, self._next_arrival)
        engine.close()

    def _iterate(self) -> None:
        self.history.step = self.laws.step
        self.laws.before_step()
        try:
            deltas = self.engine.step()
        except EngineDeadError as error:
            raise LawBroken("L10", f"the engine gave up: {error}") from error
        self.history.add("deltas", deltas)
        self.laws.delivered(deltas)
        self.laws.after_step(self.engine, self.device.model.rows)

    def _submit_due(self) -> None:
        rng = self.scenario.rng
        while self._next_arrival <= self.clock.now and len(self.laws.open) < self.scenario.most_open:
            self._submit(self.scenario.next_request())
            together = rng.random() < 0.3
            gap = 0.0 if together else rng.expovariate(1 / self.scenario.mean_gap_s)
            self._next_arrival = max(self._next_arrival, self.clock.now - self.scenario.mean_gap_s) + gap
        if self.scenario.light is not None and self.scenario.light.random() < LIGHT_P:
            self._submit(self.scenario.next_request("light"))

    def _submit(self, request: Request) -> None:
        """Submit; the engine has to refuse exactly what the door would refuse, and ids in use."""
        laws = self.laws
        taken = any(name == request.id for name, _ in laws.open)
        refused = taken or not _is_servable(request, self.scenario.facts)
        try:
            self.engine.submit(request)
        except RequestError as error:
            require("L9", refused, "{} was refused: {}", request.id, error)
            laws.counts["refused"] += 1
            return
        require("L9", not refused, "{} was accepted but can never be served, or its id is in use", request.id)
        tracked = laws.submitted(request)
        self.history.add(
            "submit", [request.id, len(request.prompt_ids), request.params, request.priority, request.salt]
        )
        self._draw_poison(request, tracked)
        cancel = self.scenario.next_cancel(request)
        if cancel is None:
            return
        chosen = tracked if cancel.index is None else tracked[cancel.index : cancel.index + 1]
        if cancel.event == "submit":
            self._cancel(request.id, cancel, chosen, laws.step)
        else:
            self._cancels.append((cancel, chosen, laws.step))

    def _draw_poison(self, request: Request, tracked: list[Tracked]) -> None:
        rng = self.scenario.rng
        if rng.random() < self.scenario.poison_p:
            one = rng.choice(tracked)
            one.doomed = True
            self.device.poisoned[request.seed + one.index] = rng.choice((-1, 0, 1, 4))

    def _cancel_due(self) -> None:
        """Cancellations whose event has come between two iterations."""
        self._fire({"steps", "tokens", "ended"}, self.laws.step)

    def _while_running(self) -> None:
        """Cancellations that another thread makes while the device computes: they count from the next iteration."""
        self._fire({"running"}, self.laws.step + 1)

    def _fire(self, events: set[str], by: int) -> None:
        left = []
        for item in self._cancels:
            cancel, chosen, since = item
            if cancel.event not in events or not self._is_due(cancel, chosen, since):
                left.append(item)
            else:
                self._cancel(chosen[0].request.id, cancel, chosen, by)
        self._cancels = left

    def _is_due(self, cancel: CancelPlan, chosen: list[Tracked], since: int) -> bool:
        if cancel.event == "tokens":
            return any(len(one.tokens) >= cancel.count for one in chosen) or chosen[0].ended is not None
        if cancel.event == "ended":
            return all(one.ended is not None for one in chosen)
        return self.laws.step - since >= cancel.count

    def _cancel(self, request_id: str, cancel: CancelPlan, chosen: list[Tracked], by: int) -> None:
        if any(one.ended is not None for one in chosen) and self._id_is_reused(chosen):
            return
        self.laws.counts[f"cancel {cancel.event}"] += 1
        self.history.add("cancel", [request_id, cancel.event, cancel.index])
        self.engine.cancel(request_id, cancel.index)
        self.laws.cancelled(chosen, by)

    def _id_is_reused(self, chosen: list[Tracked]) -> bool:
        """Whether another request has come under this id since."""
        request = chosen[0].request
        return any(one.request is not request for (name, _), one in self.laws.open.items() if name == request.id)


def _is_servable(request: Request, facts: ModelFacts) -> bool:
    try:
        check_request(request, facts)
    except RequestError:
        return False
    return True


def simulate(seed: int, steps: int = 1000) -> Outcome:
    """Run one seed. Raises `RunFailed` with the history if a law is broken."""
    return Simulation(seed, steps).run()
