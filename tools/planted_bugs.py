"""Plants each bug of docs/laws.md, one after the other, and runs the test that has to find it.

    python tools/planted_bugs.py [text in a row ...]

A row is `| law | test | file | text | what stands there instead |`. The source is changed in place and put back.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "laws.md"
CASES = ROOT / "tests" / "fuzz" / "cases"
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug: `new` in the place of `old`, which stands once in the file."""

    law: str
    test: str
    file: str
    old: str
    new: str


def read_plants(text: str) -> list[Plant]:
    """The rows of the table, whose cells but the first are code."""
    rows = (line.strip().strip("|").split(" | ") for line in text.splitlines() if line.count(" | ") == 4)
    cells = ([re.sub(r"^`+ ?| ?`+$", "", cell.strip()) for cell in row] for row in rows)
    return [Plant(*row) for row in cells if "::" in row[1]]


def is_found(plant: Plant) -> bool:
    """Whether the test is red with the bug. Raises ValueError if the source has changed under the table."""
    path = ROOT / "src" / "flover" / plant.file
    source, kept = path.read_text(), set(CASES.rglob("*"))
    if source.count(plant.old) != 1:
        raise ValueError(f"{plant.file} has {source.count(plant.old)} times: {plant.old}")
    try:
        path.write_text(source.replace(plant.old, plant.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"tests/{plant.test}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    finally:
        path.write_text(source)
        for case in {
            one for one in CASES.rglob("*") if one.is_file()
        } - kept:  # inputs that were too much for the bug alone
            case.unlink()
    return done.returncode == 1 or done.returncode < 0  # failed, or crashed


def main() -> int:
    chosen = [one for one in read_plants(TABLE.read_text()) if all(word in str(one) for word in sys.argv[1:])]
    missed = 0
    for plant in chosen:
        found = is_found(plant)
        missed += not found
        sys.stdout.write(f"{'found ' if found else 'MISSED'}  {plant.law}: {plant.test}\n")
        sys.stdout.flush()
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
