"""Public text that every Debian with Python has: licences, and the topics of Python's help."""

from pathlib import Path
from pydoc_data.topics import topics

LICENCES = Path("/usr/share/common-licenses")


def public_text(characters: int) -> str:
    """So many characters of it, half of each."""
    licences = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted(LICENCES.iterdir()) if not path.is_symlink()
    )
    help_texts = "\n".join(topics[name] for name in sorted(topics))
    return licences[: characters // 2] + "\n" + help_texts[: characters // 2]


PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a fox who",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "Die Hauptstadt von Deutschland ist",
    "Q: What is the largest planet of the solar system?\nA:",
    "The quick brown fox",
    "In 1969, the first human being walked on",
    "import numpy as np\n\n",
    "<html>\n<head>\n",
    "1, 2, 3, 4, 5,",
    "Permission is hereby granted, free of charge, to any person obtaining",
    "To be, or not to be,",
    "El perro y el gato",
    "The recipe needs two eggs, flour, and",
    "日本の首都は",
    "SELECT name FROM users WHERE",
    "Dear Sir or Madam,\n\n",
    "A hash table is a data structure that",
    "The three laws of robotics are:\n1.",
]
