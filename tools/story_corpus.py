"""The bundled model's training text: seeded simple-English stories, short texts and chats.

`python tools/story_corpus.py --count 5 --seed 1` prints samples. Documents are plain strings; a chat is
rendered with the special tokens of the bundled tokenizer. The same seed always gives the same documents.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):
    import sys

    sys.path.insert(0, str(Path(__file__).parent))

from corpus.chat import Message, make_chat
from corpus.poems import TOPICS, make_poem
from corpus.prose import make_essay, make_personal_text
from corpus.scenes import make_scene
from corpus.stories import make_chapters, make_story

BOS, EOS, END = "<|begin_of_text|>", "<|end_of_text|>", "<|end|>"
SPECIAL_TOKENS: tuple[str, ...] = (BOS, EOS, "<|user|>", "<|assistant|>", "<|system|>", END)


@dataclass(frozen=True)
class Split:
    """Training and held-out documents; no held-out document occurs in training."""

    train: list[str]
    held_out: list[str]


def render_chat(messages: list[Message]) -> str:
    """The chat in the same form as the tokenizer's chat template, without the leading BOS."""
    return "".join(f"<|{role}|>{text}{END}" for role, text in messages)


def make_document(rng: random.Random) -> str:
    """One document: a story, several chapters, a scene, a short text, a poem or a chat."""
    kind = rng.random()
    if kind < 0.38:
        return make_story(rng).text
    if kind < 0.41:
        return make_scene(rng)
    if kind < 0.44:
        return make_chapters(rng)
    if kind < 0.48:
        return make_personal_text(rng)
    if kind < 0.50:
        return make_essay(rng)
    if kind < 0.51:
        return make_poem(rng, rng.choice(TOPICS))
    return render_chat(make_chat(rng))


def make_documents(count: int, seed: int) -> list[str]:
    """`count` documents, the same ones for the same seed."""
    rng = random.Random(seed)
    return [make_document(rng) for _ in range(count)]


def make_split(count: int, seed: int, held_out_stories: int) -> Split:
    """Training documents, and held-out stories made with another seed that none of them contains."""
    train = make_documents(count, seed)
    rng = random.Random(seed + 1_000_003)
    held_out: list[str] = []
    seen = set(train)
    while len(held_out) < held_out_stories:
        story = make_story(rng).text
        if story not in seen:
            seen.add(story)
            held_out.append(story)
    everything = "\n\n".join(train)
    return Split(train, [story for story in held_out if story not in everything])


def main() -> None:
    """Print sample documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="how many documents to print")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for document in make_documents(arguments.count, arguments.seed):
        print(document, end="\n\n---\n\n")


if __name__ == "__main__":
    main()
