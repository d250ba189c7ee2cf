"""Bugs to plant into fair shares. Added to the others on import."""

from __future__ import annotations

from flover.engine.fairness import FairShares
from flover.request import Request

from .plants import Patch, plant


@plant("a client with many rows keeps them all", "fair shares", flavour="calm")
def _no_row_for_a_newcomer(patch: Patch) -> None:
    patch.setattr(FairShares, "claim", lambda self: None)


@plant("a client that was served much is next", "fair shares", flavour="calm")
def _paid_for_much(patch: Patch) -> None:
    original = FairShares.charge

    def charge(self: FairShares, name: str, prompt_tokens: int, output_tokens: int) -> None:
        original(self, name, -prompt_tokens, -output_tokens)

    patch.setattr(FairShares, "charge", charge)


@plant("a client is paid for the time before it came", "fair shares", flavour="calm")
def _paid_for_absence(patch: Patch) -> None:
    original = FairShares.arrive

    def arrive(self: FairShares, request: Request) -> None:
        client = self._clients.get(request.client)
        before = self._idle.get(request.client, 0.0) if client is None else client.served
        original(self, request)
        self._clients[request.client].served = before

    patch.setattr(FairShares, "arrive", arrive)
