"""Requests for longer answers: stories, poems, sentences and JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from corpus import cast, poems, words
from corpus.animals import ANIMALS, STORY_ANIMALS
from corpus.grammar import expand
from corpus.inflect import with_article
from corpus.prose import make_essay
from corpus.stories import PLOTS, make_story

Exchange = tuple[str, str]

COMMAND_VERBS = frozenset(["Write", "Explain", "Translate", "Tell", "Solve", "Summarize", "Give", "Fix"])

SYSTEM_PROMPT = (
    "[you are a [helpful|kind|friendly] [assistant|helper|storyteller].|answer in [short|simple] "
    "[words|sentences].|you tell stories to children.|you are a helpful assistant. Be "
    "[kind|polite|short].|be [kind|friendly] and helpful.]"
)

_TELL = "[tell me|tell|write|write me|can you tell me|please tell me|I want to hear|make up]"
_A_STORY = "[a story|a short story|a little story|a bedtime story]"


def story_request(rng: random.Random) -> Exchange:
    """ "Tell me a story about ..." with a hero, a theme, a toy or a place of the user's choice."""
    kind = rng.random()
    if kind < 0.15:
        return expand(f"{_TELL} {_A_STORY}[.|, please.]", rng), make_story(rng).text
    if kind < 0.45:
        animal = cast.animal(rng)
        about = with_article(rng.choice((animal.kind, f"{rng.choice(words.SIZES)} {animal.kind}")))
        if rng.random() < 0.3:
            about += f" named {animal.name}"
        text = make_story(rng, hero=animal).text
    elif kind < 0.65:
        child = cast.child(rng)
        about = f"a {rng.choice((child.kind, 'little ' + child.kind))}"
        about = rng.choice((f"{about} named {child.name}", child.name, about))
        text = make_story(rng, hero=child).text
    elif kind < 0.8:
        plot = rng.choice(PLOTS)
        about, text = plot.theme, make_story(rng, plot=plot).text
    elif kind < 0.88:
        toy = rng.choice(words.TOY_NOUNS)
        about, text = with_article(toy), make_story(rng, toy=toy).text
    elif kind < 0.94:
        place = rng.choice(words.PLACES)
        about, text = f"the {place.name}", make_story(rng, place=place).text
    else:
        hero = cast.animal(rng)
        friend_kind = rng.choice([animal.name for animal in STORY_ANIMALS if animal.name != hero.kind])
        friend = cast.animal(rng, kind=friend_kind, female=not hero.female)
        about = f"{with_article(hero.kind)} and {with_article(friend_kind)}"
        text = make_story(rng, hero=hero, friend=friend).text
    return expand(f"{_TELL} {_A_STORY} about {about}[.|, please.]", rng), text


def poem_request(rng: random.Random) -> Exchange:
    """A request for a short poem."""
    topic = rng.choice(poems.TOPICS)
    question = f"[write|write me|tell me|can you write|please write] [a poem|a short poem] about {topic}."
    return expand(question, rng), poems.make_poem(rng, topic)


def essay_request(rng: random.Random) -> Exchange:
    """A request for a short text about an animal."""
    animal = rng.choice(ANIMALS)
    question = f"[write|write me|give me] [a text|a short text|some facts] about {animal.plural}."
    return expand(question, rng), make_essay(rng, animal)


def sentence_request(rng: random.Random) -> Exchange:
    """A request for one sentence about something."""
    place, animal = rng.choice(words.PLACES), rng.choice(ANIMALS)
    hero = cast.child(rng)
    slots = cast.make_slots(rng, hero, cast.friend_of(hero, rng), place=place)
    topic, answer = rng.choice(
        (
            (f"the {place.name}", "[{H} {acted} {where}.|{where} there was {sight}.|{H} and {F} went to the {place}.]"),
            (with_article(animal.name), f"[{{H}} saw a {animal.name} {{where}}.|the {animal.name} is {animal.look}.]"),
            ("the weather", "{weather}"),
            ("a friend", "[{F} is a good friend of {H}.|a good friend shares {snacks} with you.]"),
            ("food", "[{H} likes {dish} very much.|{G} made {dish} for {H}.|the {snacks} were sweet.]"),
        )
    )
    question = f"[write|write me|give me|make] [a sentence|one sentence] about {topic}."
    return expand(question, rng), expand(answer, rng, slots)


def json_request(rng: random.Random) -> Exchange:
    """A request for the facts about an animal, or a character, as a small JSON object."""
    if rng.random() < 0.6:
        animal = rng.choice(ANIMALS)
        facts: dict[str, str | int] = {"animal": animal.name, "legs": animal.legs, "sound": animal.sound}
        if rng.random() < 0.5:
            facts["baby"] = animal.baby
        topic = with_article(animal.name)
    else:
        person = cast.child(rng)
        facts = {"name": person.name, "age": rng.randint(5, 9), "color": rng.choice(words.COLORS)}
        topic = rng.choice((f"a {person.kind} named {person.name}", person.name))
    question = f"[describe {topic} as JSON|give me {topic} as JSON|write JSON about {topic}]."
    return expand(question, rng), json.dumps(facts)


_MAKERS: tuple[tuple[Callable[[random.Random], Exchange], int], ...] = (
    (story_request, 56), (poem_request, 16), (essay_request, 8), (sentence_request, 10), (json_request, 10),
)  # fmt: skip


def make_request(rng: random.Random) -> Exchange:
    """A random request of one of the kinds above."""
    maker = rng.choices([maker for maker, _ in _MAKERS], [weight for _, weight in _MAKERS])[0]
    return maker(rng)
