"""The story generator: determinism, grammar details, and a held-out split that is really held out."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from corpus.chat import make_chat
from corpus.dialogue import fix_speech, is_question
from corpus.grammar import expand
from corpus.inflect import gerund, join_and, past, takes_an, with_article
from corpus.poems import TOPICS, make_poem
from corpus.prose import make_essay, make_personal_text
from corpus.stories import MAX_WORDS, MIN_WORDS, PLOTS, make_story
from story_corpus import SPECIAL_TOKENS, make_documents, make_split, render_chat

PLAIN_SPEECH = re.compile(r"(they all |the \w+ |\w+ )?(said|asked|cried|shouted|called|whispered|thought)")


@pytest.fixture(scope="module")
def stories() -> list[str]:
    rng = random.Random(11)
    return [make_story(rng).text for _ in range(600)]


@pytest.fixture(scope="module")
def texts(stories: list[str]) -> list[str]:
    rng = random.Random(12)
    answers = [text for _ in range(300) for role, text in make_chat(rng) if role == "assistant" and "{" not in text]
    prose = [make(rng) for _ in range(60) for make in (make_essay, make_personal_text)]
    return [*stories, *answers, *prose, *(make_poem(rng, topic) for topic in TOPICS)]


def test_same_seed_gives_same_documents() -> None:
    assert make_documents(60, seed=3) == make_documents(60, seed=3)
    assert make_documents(60, seed=3) != make_documents(60, seed=4)


def test_story_length(stories: list[str]) -> None:
    assert all(MIN_WORDS <= len(story.split()) <= MAX_WORDS for story in stories)


def test_stories_vary(stories: list[str]) -> None:
    assert len(set(stories)) == len(stories)
    assert len({plot.theme for plot in PLOTS}) == len(PLOTS) >= 12
    assert len(set(" ".join(stories).split())) > 1500


def test_articles_agree(texts: list[str]) -> None:
    for text in texts:
        for article, word in re.findall(r"\b(an?) ([A-Za-z]+)", text, flags=re.IGNORECASE):
            assert (article.lower() == "an") == takes_an(word), f"{article} {word}: {text}"


def test_sentences_start_with_a_capital(texts: list[str]) -> None:
    for text in texts:
        first_letter = re.search(r"[A-Za-z0-9]", text)
        assert first_letter is not None and not first_letter.group().islower(), text
        assert not re.search(r"[.!?] \"?[a-z]", text), text
        assert not re.search(r"(^|\s)\"[a-z]", text), text


def test_no_leftover_markup_or_spacing(texts: list[str]) -> None:
    for text in texts:
        assert not re.search(r"[{}\[\]|_^=]", text.replace(" = ", " ")), text
        assert "  " not in text and text == text.strip(), text
        assert not re.search(r" [,.!?]|[,.]{2}|\?\.|!\.", text), text


def test_quotes_are_balanced(stories: list[str]) -> None:
    for story in stories:
        for paragraph in story.split("\n\n"):
            assert paragraph.count('"') % 2 == 0, paragraph


def test_lower_case_after_a_quote_names_a_speaker(stories: list[str]) -> None:
    for story in stories:
        for tail in re.findall(r"[!?]\" ([a-z][^.!?\"]*)", story):
            assert PLAIN_SPEECH.match(tail), tail


def test_story_keeps_its_hero() -> None:
    rng = random.Random(5)
    for plot in PLOTS:
        story = make_story(rng, plot=plot)
        assert story.theme == plot.theme
        assert story.text.count(story.hero.name) >= 3, story.text


def test_requested_toy_is_in_the_story() -> None:
    assert "lantern" in make_story(random.Random(2), toy="lantern").text


def test_split_is_disjoint() -> None:
    split = make_split(400, seed=9, held_out_stories=40)
    training_text = "\n".join(split.train)
    assert len(split.held_out) == 40
    assert not any(story in training_text for story in split.held_out)


def test_chat_alternates_and_uses_the_special_tokens() -> None:
    rng = random.Random(8)
    for _ in range(100):
        messages = make_chat(rng)
        roles = [role for role, _ in messages if role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert set(re.findall(r"<\|\w+\|>", render_chat(messages))) <= set(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("phrase", "in_the_past", "continuous"),
    [
        ("swim", "swam", "swimming"),
        ("play tag", "played tag", "playing tag"),
        ("lie in the tall grass", "lay in the tall grass", "lying in the tall grass"),
        ("hop across the stones", "hopped across the stones", "hopping across the stones"),
        ("chase butterflies", "chased butterflies", "chasing butterflies"),
        ("trade stickers", "traded stickers", "trading stickers"),
    ],
)
def test_inflection(phrase: str, in_the_past: str, continuous: str) -> None:
    assert past(phrase) == in_the_past
    assert gerund(phrase) == continuous


def test_small_helpers() -> None:
    assert with_article("owl") == "an owl"
    assert with_article("unicorn") == "a unicorn"
    assert join_and(["a", "b", "c"]) == "a, b, and c"
    assert is_question("please, could you help") and not is_question("what a good idea")
    assert fix_speech('"Where are you," asked Tom.') == '"Where are you?" asked Tom.'
    assert fix_speech('"Come here?" asked Tom.') == '"Come here," said Tom.'


def test_template_language() -> None:
    rng = random.Random(1)
    assert expand("{he} saw a {animal}.", rng, {"he": "she", "animal": "owl"}) == "She saw an owl."
    assert expand("[one|one] fox[|].", rng) == "One fox."
    with pytest.raises(KeyError):
        expand("{nobody}", rng, {})
