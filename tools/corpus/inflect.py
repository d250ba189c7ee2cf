"""English inflection for the small vocabulary of the corpus: past tense, -ing form, a/an, number words.

Verb phrases are written in base form ("climb the tall tree"); only their first word is inflected.
"""

from __future__ import annotations

import re

IRREGULAR_PAST: dict[str, str] = {
    "be": "was", "become": "became", "begin": "began", "bite": "bit", "blow": "blew", "break": "broke",
    "bring": "brought", "build": "built", "buy": "bought", "catch": "caught", "choose": "chose",
    "come": "came", "cut": "cut", "dig": "dug", "do": "did", "draw": "drew", "drink": "drank",
    "eat": "ate", "fall": "fell", "feed": "fed", "feel": "felt", "find": "found", "fly": "flew",
    "get": "got", "give": "gave", "go": "went", "grow": "grew", "have": "had", "hear": "heard",
    "hide": "hid", "hold": "held", "keep": "kept", "lead": "led", "leave": "left", "let": "let",
    "lie": "lay", "light": "lit", "lose": "lost", "make": "made", "meet": "met", "put": "put",
    "read": "read", "ride": "rode", "ring": "rang", "rise": "rose", "run": "ran", "say": "said",
    "see": "saw", "sing": "sang", "sit": "sat", "sleep": "slept", "slide": "slid", "spin": "spun",
    "stand": "stood", "sweep": "swept", "swim": "swam", "swing": "swung", "take": "took",
    "tell": "told", "think": "thought", "throw": "threw", "wear": "wore", "win": "won",
    "write": "wrote",
}  # fmt: skip

DOUBLE_LAST_LETTER: frozenset[str] = frozenset(
    {"begin", "chat", "clap", "cut", "dig", "drop", "get", "grab", "hop", "hug", "hum", "jog", "let", "nap"}
    | {"pat", "pet", "plan", "put", "rub", "run", "sip", "sit", "skip", "spin", "stop", "swim", "tap", "win"}
)

_SILENT_H = ("hour", "honest", "honor")
_CONSONANT_SOUND = ("uni", "use", "usual", "one", "once", "eu")


def _split(phrase: str) -> tuple[str, str]:
    verb, _, rest = phrase.partition(" ")
    return verb, f" {rest}" if rest else ""


def past(phrase: str) -> str:
    """Past tense of a verb phrase: "dig a deep hole" -> "dug a deep hole"."""
    verb, rest = _split(phrase)
    if verb in IRREGULAR_PAST:
        return IRREGULAR_PAST[verb] + rest
    if verb.endswith("e"):
        return f"{verb}d{rest}"
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ied{rest}"
    if verb in DOUBLE_LAST_LETTER:
        return f"{verb}{verb[-1]}ed{rest}"
    return f"{verb}ed{rest}"


def gerund(phrase: str) -> str:
    """The -ing form of a verb phrase: "make a daisy chain" -> "making a daisy chain"."""
    verb, rest = _split(phrase)
    if verb == "lie":
        return f"lying{rest}"
    if verb.endswith("e") and not verb.endswith(("ee", "be")):
        return f"{verb[:-1]}ing{rest}"
    if verb in DOUBLE_LAST_LETTER:
        return f"{verb}{verb[-1]}ing{rest}"
    return f"{verb}ing{rest}"


def takes_an(word: str) -> bool:
    """Whether the indefinite article before `word` is "an"."""
    lowered = word.lower()
    if lowered.startswith(_SILENT_H):
        return True
    return lowered[:1] in "aeiou" and lowered[:1] != "" and not lowered.startswith(_CONSONANT_SOUND)


def with_article(noun_phrase: str) -> str:
    """The phrase with its indefinite article: "an owl", "a red kite"."""
    return f"{'an' if takes_an(noun_phrase) else 'a'} {noun_phrase}"


def fix_articles(text: str) -> str:
    """Rewrite every "a" or "an" to agree with the word that follows it."""

    def choose(match: re.Match[str]) -> str:
        article = "an" if takes_an(match.group(3)) else "a"
        return (article.capitalize() if match.group(1)[0] == "A" else article) + match.group(2) + match.group(3)

    return re.sub(r"\b(a|an|A|An)( )([A-Za-z]+)", choose, text)


NUMBER_WORDS: tuple[str, ...] = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


def join_and(items: list[str]) -> str:
    """ "a, b, and c" for three or more items, "a and b" for two."""
    if len(items) <= 2:
        return " and ".join(items)
    return ", ".join(items[:-1]) + f", and {items[-1]}"
