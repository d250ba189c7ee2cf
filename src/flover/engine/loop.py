"""The main inference stream: take → plan → start → finish → commit → deliver, once per iteration.

With asynchronous scheduling the iteration before is what is finished and committed: it runs while the next one is
planned and started.

One thread calls `step`; any thread may call `submit`, `cancel` and `wait`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flover.engine.budget import CostModel, attention_of
from flover.engine.commit import commit, match_rows, recover
from flover.engine.executor import Executor
from flover.engine.observer import ExecutedPlan, Observer
from flover.engine.plan import StepPlan
from flover.engine.queue import Cancel, RequestQueue
from flover.engine.roster import Roster, SchedulerConfig
from flover.engine.scheduler import Scheduler
from flover.engine.stats import EngineStats, Times, snapshot
from flover.errors import EngineDeadError
from flover.request import Delta, ModelFacts, Request, check_request, resolve_max_tokens
from flover.structured_outputs import Vocabulary

MAX_FAULTS_IN_A_ROW = 20
"""So many iterations that raise, with none in between that succeeds, mean that the device is gone."""


class Engine:
    """Requests in, deltas out. `clock` gives seconds and never runs backwards."""

    def __init__(self, executor: Executor, config: SchedulerConfig, clock: Callable[[], float]) -> None:
        self.roster = Roster(config)
        self._cost = CostModel(executor.facts.experts)
        self.scheduler = Scheduler(self.roster, self._cost)
        self._executor = executor
        self._clock = clock
        self._queue = RequestQueue()
        self._last: tuple[StepPlan | None, float] = None, 0.0
        self._times = Times()
        self._ahead = int(config.async_scheduling)
        """Plans that may stay in flight at the end of a step."""
        self._ended = -math.inf
        """When the last plan was finished."""
        self._faults_in_a_row = 0
        self._trimmed = True
        self._born = clock()
        self._observers: tuple[Observer, ...] = ()

    # The loop: one thread

    def step(self) -> list[Delta]:
        """One iteration: every live sequence advances. Returns the deltas of the one that is finished; empty when there
        is none."""
        deltas = self._take()
        now = self._clock()
        self._times.begin(now)
        plan = self.scheduler.plan(now)
        for observer in self._observers:
            observer.planned(self.roster, plan)
        ran = plan is not None or bool(self.roster.in_flight)
        if ran:
            deltas += self._run(plan)
        self._close_ended(deltas)
        for observer in self._observers:
            observer.stepped(self.roster, deltas)
        if not ran or not self.has_work:
            self._times.rest()
        return deltas

    def _take(self) -> list[Delta]:
        deltas: list[Delta] = []
        items = self._queue.take()
        for observer in self._observers:
            observer.took(items)
        for item in items:
            if isinstance(item, Cancel):
                deltas += self.roster.cancel(item.request_id, item.index)
            else:
                self.roster.add(item, self._clock())
        return deltas

    def _run(self, plan: StepPlan | None) -> list[Delta]:
        """Start `plan` if there is one, and finish the oldest plan if it does not stay in flight."""
        in_flight = self.roster.in_flight
        try:
            if plan is not None:
                self.roster.launch(plan, self._clock())
                self._executor.start(plan)
                if len(in_flight) <= self._ahead:
                    return []
            result = self._executor.finish()
            rows = match_rows(in_flight[0].plan, result)
        except EngineDeadError:
            raise
        except Exception as error:
            return self._recover(error)
        milliseconds = self._end()
        landed = self.roster.land()
        self._last = landed.plan, milliseconds
        self._times.ran(self._ended, result.kernel_seconds)
        self.roster.counts["compilations"] += result.compilations
        for observer in self._observers:
            observer.ran(
                ExecutedPlan(landed.plan, landed.started, milliseconds, rows, offload_error=result.offload_error)
            )
        self._cost.observe(landed.plan.num_tokens, attention_of(landed.plan), milliseconds)
        if self.scheduler.speculator is not None:
            self.scheduler.speculator.observe(landed.plan, milliseconds)
        self._faults_in_a_row, self._trimmed = 0, False
        if result.offload_error is not None and self.roster.prefix.tier.num_slots:
            self.roster.counts["offload_errors"] += 1
            self.roster.prefix.stop_offload()
        return commit(self.roster, landed, rows)

    def _end(self) -> float:
        """The oldest plan has ended; returns its milliseconds. It could not run before the one before it had ended."""
        began = max(self.roster.in_flight[0].started, self._ended)
        self._ended = self._clock()
        return (self._ended - began) * 1e3

    def _recover(self, error: Exception) -> list[Delta]:
        """An iteration raised: start again from the tokens, and find out which request causes it."""
        message, oldest = f"{type(error).__name__}: {error}", self.roster.in_flight[0]
        milliseconds = self._end()
        for observer in self._observers:
            observer.ran(ExecutedPlan(oldest.plan, oldest.started, milliseconds, {}, message))
        self._faults_in_a_row += 1
        if self._faults_in_a_row >= MAX_FAULTS_IN_A_ROW:
            raise EngineDeadError(f"{MAX_FAULTS_IN_A_ROW} iterations in a row failed; the last: {message}") from error
        self._executor.reset()
        return recover(self.roster, message)

    def _close_ended(self, deltas: list[Delta]) -> None:
        ended = {delta.request_id for delta in deltas if delta.finish_reason is not None}
        if ended:
            self._queue.close([request_id for request_id in ended if not self.roster.knows(request_id)])

    def observe(self, observer: Observer) -> None:
        """Tell `observer` of every step from the next one on. Not while another thread is in `step`."""
        observer.attached(self.roster, self._born)
        self._observers += (observer,)

    def unobserve(self, observer: Observer) -> None:
        """Take an observer away. Not while another thread is in `step`."""
        self._observers = tuple(other for other in self._observers if other is not observer)
        observer.close()

    # The border: any thread

    def prepare(self, request: Request, vocabulary: Vocabulary | None) -> Callable[[], None] | None:
        """What has to be done, in any thread but the loop's, before this request is submitted; None if nothing.
        `vocabulary` is that of the tokenizer, which structured outputs need. Raises `RequestError`."""
        return self._executor.prepare(request, vocabulary)

    def submit(self, request: Request, vocabulary: Vocabulary | None = None) -> None:
        """Add a request, once what it needs is done. Raises `RequestError` if it can never be served."""
        check_request(request, self.facts)
        if request.params.needs_preparation and (work := self.prepare(request, vocabulary)) is not None:
            work()
        self._queue.put(resolve_max_tokens(request, self.facts))

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """End a request, or one of its sequences, before the next iteration. Unknown and ended ones are ignored."""
        self._queue.put(Cancel(request_id, index))

    def wait(self, timeout: float) -> bool:
        """Block until there is something to do, at most `timeout` seconds; whether there is.

        A wait in vain means idleness: the memory behind free pages goes back to the system. Raises `EngineDeadError` if
        the executor can compute nothing any more.
        """
        if self.roster.in_flight:
            return True
        # A batch may still wait for more requests.
        closed_for = self.scheduler.opens_at - self._clock()
        if closed_for <= 0 or self._queue.wait(min(timeout, closed_for)):
            return True
        if self.roster:
            return closed_for <= timeout
        self._executor.check()
        if not self._trimmed:
            self._executor.trim(self.roster.pool.free_pages)
            self._trimmed = True
        return False

    @property
    def has_work(self) -> bool:
        """Whether a sequence is here or a plan in flight. (A batch that waits for more needs no step before `wait`
        says so.)"""
        return bool(self.roster) or bool(self.roster.in_flight) or bool(self._queue)

    @property
    def facts(self) -> ModelFacts:
        return self._executor.facts

    def stats(self) -> EngineStats:
        """A snapshot of counters and gauges."""
        return snapshot(self.roster, *self._last, self._times)

    def reset_prefix_cache(self) -> None:
        """Forget every prefix. Not while another thread is in `step`."""
        for observer in self._observers:
            observer.forgot()
        self.roster.pool.drop_cached()

    def close(self) -> None:
        """Free the device. Open requests get no more news."""
        for observer in self._observers:
            self.unobserve(observer)
        self._executor.close()
