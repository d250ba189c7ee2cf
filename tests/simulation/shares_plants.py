"""Bugs to plant into fair shares. Added to the others on import."""

from __future__ import annotations

from flover.engine.fairness import FairShares

from .plants import Patch, plant


@plant("a client with many rows keeps them all", "fair shares", flavour="calm")
def _no_row_for_a_newcomer(patch: Patch) -> None:
    patch.setattr(FairShares, "claim", lambda self: None)
