"""Prefix affinity for Ray Serve: its request router, with the decision of `service/router.py`."""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from flover.service.router import MOST_APART, PrefixRouter

TEXT_BLOCK = 64
"""Bytes of a prompt's text that count as one block; about a page of tokens."""


class PrefixAffinityRouter(RequestRouter):  # type: ignore[misc]  # ray is not looked into
    """Routes calls by their keyword arguments: `key`, the beginning of the prompt, and `avoid`, the ids of replicas
    that could not serve it."""

    def initialize_state(self, most_apart: int = MOST_APART) -> None:
        """Ray calls it once, with `request_router_kwargs`."""
        self._most_apart = most_apart
        self._slots: dict[ReplicaID, int] = {}
        self._open: dict[ReplicaID, int] = {}
        self._chooser = PrefixRouter(1, block=TEXT_BLOCK, most_apart=most_apart)
        self._size = 1

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """These are all there are now."""
        super().update_replicas(replicas)
        now = {replica.replica_id for replica in replicas}
        for gone in self._slots.keys() - now:
            self._forget(gone)
        if len(now) > self._size:
            self._size = 2 * len(now)
            self._slots.clear()
            self._chooser = PrefixRouter(self._size, block=TEXT_BLOCK, most_apart=self._most_apart)
        free = sorted(set(range(self._size)) - set(self._slots.values()), reverse=True)
        for new in sorted(now - self._slots.keys(), key=str):
            self._slots[new] = free.pop()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A call found it dead."""
        super().on_replica_actor_died(replica_id)
        self._forget(replica_id)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The chosen one, then all others in case it does not take the call."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        avoid = pending_request.kwargs["avoid"]
        able = [one for one in candidate_replicas if one.replica_id.unique_id not in avoid] or candidate_replicas
        by_slot = {self._slots[one.replica_id]: one for one in able if one.replica_id in self._slots}
        loads = [self._load(by_slot[slot]) if slot in by_slot else None for slot in range(self._size)]
        try:
            chosen = by_slot[self._chooser.choose(pending_request.kwargs["key"], loads)]
        except LookupError:
            return [able]
        return [[chosen], [one for one in able if one is not chosen]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """A replica has got a call."""
        self._open[replica_id] = self._open.get(replica_id, 0) + 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """The call has ended, one way or another."""
        self._open[replica_id] = max(0, self._open.get(replica_id, 0) - 1)

    def _load(self, replica: RunningReplica) -> int | None:
        """Open calls: what the replica last said itself if that is recent, else those from here; None if it is full."""
        said = self.replica_queue_len_cache.get(replica.replica_id)
        load = self._open.get(replica.replica_id, 0) if said is None else said
        return load if load < replica.max_ongoing_requests else None

    def _forget(self, replica_id: ReplicaID) -> None:
        self._open.pop(replica_id, None)
        if (slot := self._slots.pop(replica_id, None)) is not None:
            self._chooser.forget(slot)
