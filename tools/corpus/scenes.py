"""Loose scenes: sentences that are put together freely, with conjunctions and clauses, around two characters."""

from __future__ import annotations

import random

from corpus import cast
from corpus.grammar import expand

_START = (
    "{time}, {H} and {F} were {where}.",
    "{H} and {F} met {where}, because they wanted to {act}.",
    "{time}, {H} went to the {place} with {his} friend {F}.",
    "the {place} was [quiet|full of life|empty] when {H} and {F} [got there|came]. {weather}",
)
_MIDDLE = (
    "{H} {acted} while {F} {acted2}.",
    "{F} {acted}, but {H} [only watched|did something else|wanted to {act2}].",
    "{F} liked {acting} more than {acting2}.",
    "if it did not rain, they wanted to {act2}.",
    "when {H} saw {sight}, {he} [stopped|smiled|called {F}|clapped {his} hands].",
    "there was {sight}, and next to it there was {sight2}.",
    "{sound}, and {F} [laughed|listened|looked up|jumped].",
    "because they were hungry, they ate [{snacks}|{dish}|some {snacks}].",
    "{H} gave {F} a {snack}, and {F} gave {him} {treasure}.",
    "{F} had {treasure} in {fhis} pocket.",
    '"do you see {sight}?" asked {H}. "[yes, it is very pretty|no, where is it|I see it too]," said {F}.',
    '"I like {snacks}," said {F}. "[I like them too|I like {dish} better|we can share mine]," said {H}.',
    '"what do you want to be when you grow up?" asked {F}. "[a baker|a sailor|a teacher|a painter]," said {H}.',
    '"can you {skill}?" asked {H}. "[yes, I can|not yet, but I am learning|no, but {G} can]," said {F}.',
    "{F} told {H} about {fear}, and {H} told {F} about {his} {toynoun}.",
    "{H} wore a {color} hat, and {F} wore a {color2} one.",
    "a {stranger} walked by and said [hello|good day|nothing at all].",
    "{he} did not know that a {animal} was watching {him}.",
    "{H} was {happy}, and {F} was {happy} too.",
    "at first {F} was [shy|quiet|a little {sad}], but then {fhe} began to [laugh|sing|talk].",
    "{H} [ran|walked|hopped] [faster than {F}, so {he} had to wait|slower than {F}, so {he} had to hurry].",
    "{weather}",
    "they saw {number} [birds|clouds|boats|butterflies|ducks] and counted them all.",
    "{H} found a {toynoun} that was [older|bigger|smaller|prettier] than {his} own.",
    "{he} put the {toynoun} [in a box|under a tree|on a chair|next to {sight}].",
    "{F} asked {H} to help {fhim}, and of course {he} did.",
    "nobody knew where the {animal} had gone.",
    "the {flowers} were {color}, and they smelled [sweet|wonderful|like honey].",
)
_END = (
    "[then|at last|in the evening|when it got dark], they went home[ together|].",
    '"[see you tomorrow|goodbye|come again soon]," said {F}.',
    "{G} was waiting for them with {dish}.",
    "it had been a [good|long|lovely|quiet] day.",
    "they were tired, but they were {happy}.",
)


def make_scene(rng: random.Random) -> str:
    """A short passage of freely combined sentences."""
    hero = cast.child(rng) if rng.random() < 0.6 else cast.animal(rng)
    slots = cast.make_slots(rng, hero, cast.friend_of(hero, rng))
    parts = [rng.choice(_START), *rng.sample(_MIDDLE, rng.randint(4, 8)), *rng.sample(_END, rng.randint(1, 2))]
    return " ".join(expand(part, rng, slots) for part in parts)
