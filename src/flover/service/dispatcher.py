"""Which replica computes a request, and the requests that wait for one because their engine has died."""

from __future__ import annotations

from collections.abc import Sequence

from flover.errors import FloverError
from flover.service.in_flight import InFlightRequest, fail_all
from flover.service.replica import Replica
from flover.service.router import PrefixRouter
from flover.service.streams import Mailbox


class Dispatcher:
    """Gives requests to the replicas of one supervisor. Belongs to its event loop."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        self._router = PrefixRouter(len(replicas))
        self._waiting: list[InFlightRequest] = []

    @property
    def ready(self) -> bool:
        """Whether a replica takes requests. A stuck one does."""
        return any(replica.client is not None for replica in self._replicas)

    def place(self, request: InFlightRequest) -> None:
        """Give a request to a replica. One is ready."""
        # The status depends on the clock, so each is read once. A stalled engine gets a request only if all are.
        states = [replica.status for replica in self._replicas]
        best = "ok" if "ok" in states else "stalled"
        open_requests = [
            replica.client.num_open if replica.client is not None and state == best else None
            for replica, state in zip(self._replicas, states, strict=True)
        ]
        client = self._replicas[self._router.choose(request.request.prompt_ids, open_requests)].client
        assert client is not None
        client.admit([request])

    def lost(self, replica: int, requests: Sequence[InFlightRequest], reason: FloverError) -> None:
        """A replica's engine has died: its requests wait for another, or fail if they have waited before. Its cache is
        gone."""
        self._router.forget(replica)
        self._waiting += [request for request in requests if request.may_retry]
        fail_all([request for request in requests if not request.may_retry], reason)

    def place_waiting(self) -> None:
        """Give those that wait to replicas that are ready."""
        while self._waiting and self.ready:
            self.place(self._waiting[0])
            del self._waiting[0]

    def fail_waiting(self, reason: FloverError) -> None:
        """End those that wait."""
        requests, self._waiting = self._waiting, []
        fail_all(requests, reason)

    def cancel(self, request_id: str, index: int | None) -> None:
        """End a request or one of its sequences, wherever it is."""
        for request in self._waiting:
            if request.request.id == request_id:
                request.cancel(index)
        for replica in self._replicas:
            if replica.client is not None:
                replica.client.cancel(request_id, index)

    def abandon(self, mailbox: Mailbox) -> None:
        """This mailbox is read no more: cancel what is left of it."""
        self._waiting = [request for request in self._waiting if request.mailbox is not mailbox]
        for replica in self._replicas:
            if replica.client is not None:
                replica.client.abandon(mailbox)
