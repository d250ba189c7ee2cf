"""Every law has tests that exist and run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from register import LAWS, Law

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
PLANT = re.compile(r"^\|[^|]*\| `+ ?(?P<test>[^`]*::[^`]*?) ?`+ \| `(?P<file>[^`]*)` \| `+ ?(?P<old>.*?) ?`+ \| `")


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def never_runs(path: Path, name: str) -> bool:
    """Whether the test is skipped or expected to fail."""
    marks = [*functions(path)[name].decorator_list, *_module_marks(path)]
    return any(re.search(r"\b(skip|xfail)\b", ast.unparse(mark)) for mark in marks)


def _module_marks(path: Path) -> list[ast.expr]:
    assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    return [node.value for node in assigned if ast.unparse(node.targets[0]) == "pytestmark"]


def test_no_law_is_missing() -> None:
    assert {f"L{number}" for number in range(1, 16)} <= LAWS.keys()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
def test_every_law_has_tests(law: Law) -> None:
    assert law.tests
    for test in law.tests:
        file, _, name = test.partition("::")
        assert name in functions(TESTS / file), test
        assert not never_runs(TESTS / file, name), test


def test_the_simulation_checks_the_laws_that_name_it() -> None:
    checked = "".join(
        (TESTS / "simulation" / name).read_text() for name in ("laws.py", "texts.py", "shares.py", "simulator.py")
    )
    for name, law in LAWS.items():
        if any(test.startswith("simulation/") for test in law.tests):
            assert f'"{name}"' in checked, f"{name} is not checked while a simulation runs"


def test_plants_break_every_law_of_the_simulation() -> None:
    """L11 to L15 are not the simulation's."""
    source = "".join((TESTS / "simulation" / name).read_text() for name in ("plants.py", "text_plants.py"))
    planted = set(re.findall(r'"(L\d+)"', source))
    assert {f"L{number}" for number in range(1, 11)} <= planted


def test_the_bugs_of_the_table_have_their_place_in_the_source() -> None:
    """`make plants` plants them, which takes minutes; here each stands once where the table says, and has its test."""
    plants = [found for line in (ROOT / "docs" / "laws.md").read_text().splitlines() if (found := PLANT.match(line))]
    assert len(plants) >= 19
    for plant in plants:
        file, _, name = plant["test"].partition("::")
        assert name.partition("[")[0] in (TESTS / file).read_text(), plant["test"]
        assert (ROOT / "src" / "flover" / plant["file"]).read_text().count(plant["old"]) == 1, plant["old"]
