"""Punctuation of direct speech: templates mix questions and statements inside one pair of quotes."""

from __future__ import annotations

import re

_SPEECH = re.compile(r"\"([^\"]+?)([,.?])\"( asked\b| \w+ asked\b| [Tt]he \w+ asked\b)?")
_QUESTION = re.compile(
    r"(what|who|whose|why|where|how|is|are|was|does|did|can|could|shall|will|would|has|have you|may i|should"
    r"|do (you|they|we|i|the|stars)|why not)\b",
    re.IGNORECASE,
)
_EXCLAMATION = re.compile(r"(what (a|an|fun|luck)|how (lovely|clever|nice|brave|kind|pretty))\b", re.IGNORECASE)


def is_question(sentence: str) -> bool:
    """Whether some clause of the sentence starts like a question."""
    clauses = [clause.strip() for clause in sentence.split(",")]
    return any(_QUESTION.match(clause) and not _EXCLAMATION.match(clause) for clause in clauses)


def fix_speech(text: str) -> str:
    """End spoken questions with "?" and spoken statements without, and let only questions be asked."""

    def repair(match: re.Match[str]) -> str:
        spoken, mark, asked = match.group(1), match.group(2), match.group(3) or ""
        last_sentence = re.split(r"[.!?] ", spoken)[-1]
        if is_question(last_sentence):
            mark = "?"
        elif mark == "?":
            follows = text[match.end(2) + 1 : match.end(2) + 3]
            mark = "," if asked or re.match(r" [a-zA-Z]", follows) else "."
        if mark != "?":
            asked = asked.replace("asked", "said")
        return f'"{spoken}{mark}"{asked}'

    return _SPEECH.sub(repair, text)
