"""Bugs to plant into the text side, which law L8 must find. Added to the others on import."""

from __future__ import annotations

from flover.text.detokenizer import Detokenizer
from flover.text.stops import StopMatcher

from .plants import PLANTS, Patch, plant


@plant("a character in two tokens is shown broken", "L8", flavour="calm")
def _broken_character(patch: Patch) -> None:
    def feed(self: Detokenizer, token_id: int) -> str:
        return (
            ""
            if self._tokenizer.is_special(token_id)
            else self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        )

    patch.setattr(Detokenizer, "feed", feed)


@plant("what was held back for a stop string is lost at the end", "L8", flavour="calm")
def _lost_at_the_end(patch: Patch) -> None:
    patch.setattr(StopMatcher, "finish", lambda self: "")


@plant("a stop string is looked for in each delta alone", "L8", flavour="calm")
def _stop_in_one_piece(patch: Patch) -> None:
    original = StopMatcher.feed

    def feed(self: StopMatcher, text: str, *, armed: bool = True, hidden: bool = False) -> str:
        self._lens = [0] * len(self._lens)
        return original(self, text, armed=armed, hidden=hidden)

    patch.setattr(StopMatcher, "feed", feed)


TEXT_PLANTS = [each for each in PLANTS if each.laws == ("L8",)]
