"""Speculation: which tokens may come next, and how many of them are worth computing. Plain Python, no torch."""

from flover.speculation.draft import Draft
from flover.speculation.drafter import Drafter
from flover.speculation.speculator import Speculator

__all__ = ["Draft", "Drafter", "Speculator"]
