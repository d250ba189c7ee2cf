"""Prompts for the demo in the vocabulary of the bundled model, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

ANIMALS = ("fox", "rabbit", "bear", "mouse", "duck", "owl", "frog", "cat", "dog", "squirrel", "turtle", "hedgehog")
NAMES = ("Lily", "Max", "Mia", "Ben", "Ruby", "Leo", "Rosie", "Sam", "Daisy", "Tom", "Ella", "Finn")
TRAITS = ("little", "brave", "kind", "curious", "shy", "clever")
_CHATS = (
    "Tell me a story about a {trait} {animal}.",
    "Tell me a short story about a {animal} named {name}.",
    "Write a story about a {animal} and a {other}, please.",
    "Can you tell me a bedtime story about a {trait} {animal}?",
)
_OPENINGS = (
    "Once upon a time, there was a {trait} {animal} named {name}.",
    "Once there was a {trait} {animal} called {name}.",
    "{name} was a {trait} {animal} who lived near the",
    "This is the story of {name}, a {trait} {animal}.",
)


@dataclass(frozen=True, slots=True)
class Story:
    """One request of the demo; a chat sends `text` as the user's message."""

    chat: bool
    text: str


def make_stories(seed: int, num_stories: int) -> list[Story]:
    """Alternating chats and completions, a function of the seed."""
    rng = random.Random(seed)
    stories = []
    for index in range(num_stories):
        chat = index % 2 == 0
        animal, other = rng.sample(ANIMALS, 2)
        pattern = rng.choice(_CHATS if chat else _OPENINGS)
        values = {"animal": animal, "other": other, "name": rng.choice(NAMES), "trait": rng.choice(TRAITS)}
        stories.append(Story(chat, pattern.format(**values)))
    return stories
