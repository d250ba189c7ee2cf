"""Casting a story: who is in it, where it happens, and the slots the plot templates may use."""

from __future__ import annotations

import random
from dataclasses import dataclass

from corpus import words
from corpus.animals import STORY_ANIMALS
from corpus.grammar import choose_alternatives
from corpus.inflect import gerund, past

ALWAYS_SHE = frozenset({"hen", "cow", "bee"})


@dataclass(frozen=True)
class Character:
    """Someone in a story: a name, what they are, and which pronouns they take."""

    name: str
    kind: str
    female: bool

    @property
    def is_child(self) -> bool:
        """Whether this is a boy or a girl rather than an animal."""
        return self.kind in ("boy", "girl")


def child(rng: random.Random, female: bool | None = None) -> Character:
    """A random boy or girl."""
    is_girl = rng.random() < 0.5 if female is None else female
    return Character(rng.choice(words.GIRLS if is_girl else words.BOYS), "girl" if is_girl else "boy", is_girl)


def animal(rng: random.Random, kind: str | None = None, female: bool | None = None) -> Character:
    """A random named animal."""
    is_she = rng.random() < 0.5 if female is None else female
    species = kind or rng.choice([each.name for each in STORY_ANIMALS if is_she or each.name not in ALWAYS_SHE])
    is_she = is_she or species in ALWAYS_SHE
    name = rng.choice(words.ANIMAL_NAMES_SHE if is_she else words.ANIMAL_NAMES_HE)
    return Character(name, species, is_she)


def pronouns(female: bool, prefix: str = "") -> dict[str, str]:
    """Pronoun slots, for example `he` or, with prefix "f", `fhe`; the value follows the character."""
    forms = ("she", "her", "her", "herself") if female else ("he", "him", "his", "himself")
    return dict(zip((f"{prefix}he", f"{prefix}him", f"{prefix}his", f"{prefix}himself"), forms, strict=True))


def friend_of(hero: Character, rng: random.Random) -> Character:
    """A second character, mostly of the other gender so that pronouns stay clear."""
    female = (not hero.female) if rng.random() < 0.85 else hero.female
    while True:
        friend = child(rng, female) if hero.is_child and rng.random() < 0.6 else animal(rng, female=female)
        if friend.kind != hero.kind and friend.name != hero.name:
            return friend


def make_slots(
    rng: random.Random,
    hero: Character,
    friend: Character,
    *,
    toy: str | None = None,
    place: words.Place | None = None,
) -> dict[str, str]:
    """Bind every slot of one story. Upper-case slots name characters, lower-case ones the rest."""
    grown_up_is_she = rng.random() < 0.5
    grown_up = rng.choice(("Mom", "Grandma", "Aunt Rose") if grown_up_is_she else ("Dad", "Grandpa", "Uncle Joe"))
    kinds = {hero.kind, friend.kind}
    stranger = rng.choice([kind.name for kind in STORY_ANIMALS if kind.name not in kinds])
    setting = rng.choice(words.SETTINGS)
    spot = place or rng.choice(words.PLACES)
    other_spot = rng.choice([candidate for candidate in words.PLACES if candidate is not spot])
    act, act2 = rng.sample(spot.acts, 2)
    toy_noun = toy or rng.choice(words.TOY_NOUNS)
    snack, snacks = rng.choice(words.SNACKS)
    fear, remedy = rng.choice(words.FEARS)
    trait = rng.choice(words.TRAITS)
    ingredients = rng.sample(words.INGREDIENTS, 3)
    sights = rng.sample(spot.sights, 2)
    colors = rng.sample(words.COLORS, 2)
    skill = rng.choice(words.SKILLS)
    introduced = f"{friend.name} the {friend.kind}"
    if friend.is_child:
        introduced = rng.choice((friend.name, f"a {friend.kind} named {friend.name}"))
    slots = {
        "H": hero.name,
        "kind": hero.kind,
        "little": rng.choice(words.SIZES),
        "trait": trait,
        "F": friend.name,
        "fkind": friend.kind,
        "Fk": introduced,
        "T": rng.choice((hero.name, f"the {rng.choice(words.SIZES)} {hero.kind}", f"the {hero.kind}")),
        "G": grown_up,
        "stranger": f"{rng.choice(('old', 'young', 'tired', 'lost', 'hungry', 'small'))} {stranger}",
        "animal": stranger,
        "time": choose_alternatives(setting.opening, rng),
        "weather": choose_alternatives(rng.choice(setting.weather), rng),
        "place": spot.name,
        "where": spot.where,
        "sight": sights[0],
        "sight2": sights[1],
        "sound": rng.choice(spot.sounds),
        "act": act,
        "acted": past(act),
        "acting": gerund(act),
        "act2": act2,
        "acted2": past(act2),
        "acting2": gerund(act2),
        "place2": other_spot.name,
        "where2": other_spot.where,
        "toynoun": toy_noun,
        "toy": f"{rng.choice(words.TOY_ADJECTIVES)} {toy_noun}",
        "treasure": rng.choice(words.TREASURES),
        "homemade": rng.choice(words.HOMEMADE),
        "snack": snack,
        "snacks": snacks,
        "dish": rng.choice(words.DISHES),
        "ingredient": ingredients[0],
        "ingredient2": ingredients[1],
        "ingredient3": ingredients[2],
        "flowers": rng.choice(words.FLOWERS),
        "color": colors[0],
        "color2": colors[1],
        "fear": fear,
        "remedy": remedy,
        "remedied": past(remedy),
        "skill": skill,
        "skilled": past(skill),
        "happy": rng.choice(words.HAPPY),
        "sad": rng.choice(words.SAD),
        "number": rng.choice(("three", "four", "five", "six", "seven", "ten")),
    }
    slots |= pronouns(hero.female) | pronouns(friend.female, "f") | pronouns(grown_up_is_she, "g")
    return slots | pronouns(stranger in ALWAYS_SHE or rng.random() < 0.5, "a")
