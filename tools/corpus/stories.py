"""Assemble one story: an opening, the beats of a plot, and an ending."""

from __future__ import annotations

import random
from dataclasses import dataclass

from corpus import cast, plots_courage, plots_days, plots_finding, plots_making, plots_wonder, words
from corpus.grammar import expand
from corpus.plot import Plot

PLOTS: tuple[Plot, ...] = (
    *plots_finding.PLOTS, *plots_courage.PLOTS, *plots_making.PLOTS, *plots_wonder.PLOTS, *plots_days.PLOTS,
)  # fmt: skip

MIN_WORDS, MAX_WORDS = 60, 200

_OPENINGS = (
    "once upon a time, there was a {little} {kind} named {H}.",
    "once upon a time, there was a {kind} named {H}. {^he} was very {trait}.",
    "once upon a time, in a [small house|cozy home] near the {place2}, there lived a {kind} named {H}.",
    "once there was a {trait} {kind} [named|called] {H}.",
    "there was once a {little} {kind} whose name was {H}.",
    "{H} was a {little} {kind}[ who lived near the {place2}| who loved {snacks}| with a {color2} hat|].",
    "{H} was a {trait} {kind}. {^he} lived [near the {place2}|with {G}|in a house with a {color2} door].",
    "a {trait} {kind} named {H} lived [near the {place2}|at the edge of the {place2}] with {G}.",
    "this is the story of {H}, a {trait} {kind}.",
    "long ago, a {kind} named {H} lived by a [quiet road|green hill|small lake].",
    "in a far away land, there lived a {trait} {kind} named {H}.",
    "do you know {H}? {^he} is a {trait} {kind}, and this is {his} story.",
)
_ENDINGS = (
    "the end.",
    "and they lived happily ever after.",
    "it had been a very good day.",
    "and that is the end of the story.",
    "that night, {H} slept very well.",
    "{G} was very proud of {him}.",
    "and everyone was {happy}.",
    "{H} never forgot that day.",
)


@dataclass(frozen=True)
class Story:
    """A finished story, with what it is about, so that a chat can ask for it."""

    text: str
    hero: cast.Character
    theme: str
    place: str
    toy: str | None


def _paragraphs(sentences: list[str], rng: random.Random) -> str:
    """Join the beats, in half of the stories with one to three paragraph breaks."""
    breaks = set(rng.sample(range(1, len(sentences)), rng.randint(1, 3))) if rng.random() < 0.5 else set()
    pieces = [("\n\n" if i in breaks else " " if i else "") + text for i, text in enumerate(sentences)]
    return "".join(pieces)


def make_story(
    rng: random.Random,
    *,
    hero: cast.Character | None = None,
    friend: cast.Character | None = None,
    plot: Plot | None = None,
    toy: str | None = None,
    place: words.Place | None = None,
    opening: bool = True,
) -> Story:
    """One random story; any part that is given is used as it is."""
    while True:
        story_plot = plot or rng.choice([p for p in PLOTS if toy is None or p.uses("toy")])
        lead = hero or (cast.child(rng) if rng.random() < 0.45 else cast.animal(rng))
        other = friend or cast.friend_of(lead, rng)
        slots = cast.make_slots(rng, lead, other, toy=toy, place=place)
        beats = [text for text in (expand(beat, rng, slots) for beat in story_plot.beats) if text]
        if opening:
            beats.insert(0, expand(rng.choice(_OPENINGS), rng, slots))
        if rng.random() < 0.35:
            beats.append(expand(rng.choice(_ENDINGS), rng, slots))
        text = _paragraphs(beats, rng)
        asked_for = [word for word in (toy, place.name if place else None) if word]
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS and all(word in text for word in asked_for):
            return Story(text, lead, story_plot.theme, slots["place"], slots["toynoun"])


def make_chapters(rng: random.Random) -> str:
    """A longer text: two to four stories about the same two friends."""
    hero = cast.child(rng) if rng.random() < 0.45 else cast.animal(rng)
    friend = cast.friend_of(hero, rng)
    plots = rng.sample(PLOTS, rng.randint(2, 4))
    parts = [
        make_story(rng, hero=hero, friend=friend, plot=plot, opening=number == 0).text
        for number, plot in enumerate(plots)
    ]
    names = ("One", "Two", "Three", "Four")
    return "\n\n".join(f"Chapter {name}\n\n{part}" for name, part in zip(names, parts, strict=False))
