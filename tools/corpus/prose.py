"""Short texts that are not stories: animal essays, self-introductions, letters and diary pages."""

from __future__ import annotations

import random

from corpus import cast
from corpus.animals import ANIMALS, Animal
from corpus.grammar import expand
from corpus.inflect import NUMBER_WORDS

_ESSAY = (
    "[let me tell you about {many}.|{many} are wonderful animals.|have you ever seen {one}?|this is a text "
    "about {many}.] [{one} is {look}.|{many} are {looks}.]",
    "[{many} live {home}.|you can find {many} {home}.|the home of {one} is {home}.]",
    "[{many} eat {eats}.|they like to eat {eats}.|when they are hungry, {many} eat {eats}.]",
    "[{one} has {legs}.|a {name} has {legs}.|]",
    "[{one} can {can}.|it is fun to watch, because {one} can {can}.|what can {one} do? It can {can}.]",
    "[a baby {name} is called a {baby}.|the babies of {many} are called {baby_word}.|]",
    "[{sounds}|]",
    "[if you see {one}, be quiet and gentle.|I like {many} very much.|many children love {many}.|{many} are "
    "good to know.]",
)
_ABOUT_ME = (
    "[hello!|hi!|] [my name is {H}.|I am {H}.] I am a {kind}, and I am {age} years old.",
    "I live [with {G} in a small house|near the {place}|in a house with a {color} door]. [our house is near a"
    " {place2}.|]",
    "my best friend is [called|named] {F}. [{fhe} is very {trait}.|we play together every day.|we like to {act}.]",
    "I like {snacks} and {dish}. [but I do not like {fear}.|my favorite color is {color2}.|]",
    "[every day I {act} {where}.|on Sundays we go to the {place} to {act2}.]",
    "[I have a {toy}. It is my favorite thing.|I want to learn to {skill}.|when I grow up, I want to"
    " [be a baker|be a teacher|be a doctor|sail around the world|write books].]",
    "[and who are you?|what is your name?|now you know me!|]",
)
_DIARY = (
    "dear diary, [today was a good day|today I have a lot to tell you|what a day]. [{weather}|I woke up early.]",
    "[first|in the morning] I went to the {place} with {G}. [there we saw {sight}.|I {acted} there.]",
    "then I met {F}, and we {acted2}. [{sound}.|it was so much fun.]",
    "[at noon we ate {dish}.|{F} gave me a {snack}.|we shared {number} {snacks}.]",
    "[but then I lost my {toynoun}, and I was {sad}. {F} helped me find it.|then it began to rain, and we "
    "ran home.|on the way home I found {treasure}.]",
    "[now I am tired but {happy}.|tomorrow I want to {act} again.|I hope tomorrow will be as nice.] good night!",
)
_LETTER = (
    "dear {F}, [how are you?|I hope you are well.|thank you for your letter.]",
    "[I am {happy} because {G} gave me a {toy}.|it is quiet here without you.|we have had a lot of rain this week.]",
    "[yesterday we went to the {place}, and I {acted}.|last week I learned to {skill}.] [{weather}|I thought of you.]",
    "[do you remember the day when we {acted2}?|I still have the {toynoun} that you gave me.|I told {G} "
    "about our {homemade_word}.]",
    "[please come and visit me soon.|when will you come to see me?] [we can {act} together.|{G} will make "
    "{dish} for us.]",
    "[your friend,|with love,|many hugs,] {H}",
)


def animal_slots(animal: Animal) -> dict[str, str]:
    """Slots for sentences about one kind of animal."""
    legs = f"{NUMBER_WORDS[animal.legs]} legs" if animal.legs else "no legs"
    silent = animal.sound == "make no sound"
    sounds = f"{animal.plural} make no sound that we can hear." if silent else f"{animal.plural} {animal.sound}."
    return {
        "name": animal.name,
        "one": f"a {animal.name}",
        "many": animal.plural,
        "eats": animal.eats,
        "home": animal.home,
        "sounds": sounds,
        "look": animal.look,
        "looks": animal.look,
        "baby": animal.baby,
        "baby_word": {"calf": "calves", "larva": "larvae", "fry": "fry"}.get(animal.baby, _plural(animal.baby)),
        "legs": legs,
        "can": animal.can,
    }


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def make_essay(rng: random.Random, animal: Animal | None = None) -> str:
    """A few present-tense facts about one animal."""
    slots = animal_slots(animal or rng.choice(ANIMALS))
    return " ".join(filter(None, (expand(part, rng, slots) for part in _ESSAY)))


def make_personal_text(rng: random.Random) -> str:
    """A text in the first person: an introduction, a diary page or a letter."""
    hero = cast.child(rng)
    friend = cast.child(rng, female=not hero.female)
    slots = cast.make_slots(rng, hero, friend)
    slots["age"] = rng.choice(("five", "six", "seven", "eight", "nine"))
    slots["homemade_word"] = rng.choice(("snowman", "treehouse", "trip", "picnic", "show"))
    kind = rng.choice((_ABOUT_ME, _ABOUT_ME, _DIARY, _LETTER))
    return " ".join(filter(None, (expand(part, rng, slots) for part in kind)))
