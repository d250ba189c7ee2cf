"""What a plot is: a theme and its beats, each beat one template."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """A story schema. `theme` completes the sentence "a story about ..."."""

    theme: str
    beats: tuple[str, ...]

    def uses(self, slot: str) -> bool:
        """Whether any beat mentions the slot."""
        return any("{" + slot + "}" in beat for beat in self.beats)
