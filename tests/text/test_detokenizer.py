"""Law: the pieces joined are the text of all ids, without what the prompt had already said."""

from __future__ import annotations

import random

import pytest
import text_samples as samples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flover.text.detokenizer import Detokenizer, prompt_end
from flover.text.tokenizer import Tokenizer

IDS = st.integers(0, 520)
BYTE_IDS = st.integers(4, 259)  # all bytes in any order, mostly not UTF-8
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def pieces(tokenizer: Tokenizer, prompt_ids: list[int], ids: list[int], skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(
        tokenizer, prompt_end(tokenizer, prompt_ids, skip_special_tokens=skip), skip_special_tokens=skip
    )
    return [*map(detokenizer.feed, ids), detokenizer.finish()]


def expected_text(tokenizer: Tokenizer, prompt_ids: list[int], ids: list[int], skip: bool = True) -> str:
    prompt = tokenizer.decode(prompt_ids, skip_special_tokens=skip)
    whole = tokenizer.decode([*prompt_ids, *ids], skip_special_tokens=skip)
    common = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return whole[common:]


@pytest.mark.parametrize("kind", samples.KINDS)
@settings(max_examples=400, deadline=None)
@given(
    prompt_ids=st.lists(st.one_of(IDS, BYTE_IDS), max_size=6),
    ids=st.lists(st.one_of(IDS, BYTE_IDS), max_size=20),
    skip=st.booleans(),
)
@example(prompt_ids=[0], ids=[265, 270], skip=True)
@example(prompt_ids=[241, 164], ids=[], skip=False)  # ED A0 where ids are bytes
@example(prompt_ids=[173, 98], ids=[65], skip=False)
def test_any_ids(kind: str, prompt_ids: list[int], ids: list[int], skip: bool) -> None:
    tokenizer = samples.load(kind)
    found = pieces(tokenizer, prompt_ids, ids, skip)
    assert "".join(found) == expected_text(tokenizer, prompt_ids, ids, skip)


@pytest.mark.parametrize("kind", samples.KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data(), text=st.one_of(TEXTS, st.sampled_from(samples.SAMPLE)))
def test_text_cut_anywhere_into_prompt_and_output(kind: str, data: st.DataObject, text: str) -> None:
    tokenizer = samples.load(kind)
    ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    prompt_ids, output_ids = ids[:cut], ids[cut:]
    found = pieces(tokenizer, prompt_ids, output_ids)
    assert "".join(found) == expected_text(tokenizer, prompt_ids, output_ids)
    assert "\ufffd" not in "".join(found[:-1]) or "\ufffd" in text
    shown = tokenizer.decode(prompt_ids).rstrip("\ufffd") + "".join(found)
    assert shown == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", samples.KINDS)
def test_a_prompt_that_ends_inside_a_character_never_shows(kind: str) -> None:
    tokenizer = samples.load(kind)
    ids = tokenizer.encode("The story of the 🦉")
    assert tokenizer.decode(ids[:-1]).endswith("\ufffd"), "the sample must be cut inside the owl"
    assert "".join(pieces(tokenizer, ids[:-1], ids[-1:])) == "🦉"


@pytest.mark.parametrize("kind", samples.KINDS)
def test_a_character_appears_with_the_token_that_completes_it(kind: str) -> None:
    tokenizer = samples.load(kind)
    prompt, owl = tokenizer.encode("x"), tokenizer.encode("x🦉")
    output = owl[len(prompt) :]
    assert owl[: len(prompt)] == prompt and len(output) > 1
    assert pieces(tokenizer, prompt, output) == [""] * (len(output) - 1) + ["🦉", ""]


def test_an_incomplete_character_comes_out_at_the_end() -> None:
    tokenizer = samples.load("sentencepiece")
    half = [tokenizer.token_id("<0xF0>"), tokenizer.token_id("<0x9F>")]
    assert pieces(tokenizer, tokenizer.encode("x"), half) == ["", "", "\ufffd"]


def test_a_character_that_the_prompt_left_broken_is_not_shown() -> None:
    tokenizer = samples.load("sentencepiece")
    half, letter = tokenizer.token_id("<0xF0>"), tokenizer.token_id("n")
    assert half is not None and letter is not None
    prompt = [*tokenizer.encode("x"), half]
    assert pieces(tokenizer, prompt, [letter]) == ["n", ""]
    assert pieces(tokenizer, prompt, []) == [""]


@pytest.mark.parametrize(
    ("kind", "prompt", "shown"),
    [
        ("sentencepiece", "a fox", " was"),
        ("sentencepiece", "", "was"),
        ("metaspace", "a fox", " was"),
        ("metaspace", "", "was"),
        ("byte_level", "a fox", " was"),
        ("byte_level", "", " was"),
    ],
)
def test_a_leading_space_is_kept_after_text_only(kind: str, prompt: str, shown: str) -> None:
    tokenizer = samples.load(kind)
    word = tokenizer.encode("was" if kind != "byte_level" else " was", add_special_tokens=False)
    assert "".join(pieces(tokenizer, [0, *tokenizer.encode(prompt, add_special_tokens=False)], word)) == shown


def test_special_tokens_are_skipped_or_shown() -> None:
    tokenizer = samples.load("byte_level")
    ids = [2, *tokenizer.encode("hi"), 1]
    assert "".join(pieces(tokenizer, [], ids)) == "hi"
    assert "".join(pieces(tokenizer, [], ids, skip=False)) == "<|user|>hi</s>"


@pytest.mark.parametrize("kind", samples.KINDS)
def test_the_cost_of_a_token_does_not_grow_with_the_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = samples.load(kind)
    looked_up = 0
    token_bytes = Tokenizer.token_bytes

    def counted(self: Tokenizer, token: int) -> bytes:
        nonlocal looked_up
        looked_up += 1
        return token_bytes(self, token)

    monkeypatch.setattr(Tokenizer, "token_bytes", counted)
    chance = random.Random(3)
    ids = [chance.randrange(4, 260) for _ in range(2000)]
    pieces(tokenizer, ids, ids)
    assert looked_up < len(ids) + 20
