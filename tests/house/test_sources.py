"""Rules of the sources that no linter knows: sizes, calls that run code, machine paths, pinned versions."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "src" / "flover", ROOT / "benchmarks" / "flover_benchmarks")
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60
FORBIDDEN_CALLS = {"compile", "__import__"}
FORBIDDEN_KEYWORDS = {"shell", "trust_remote_code"}
"""Data, a shell or the code of a checkpoint would run: no call may even say how it decides."""
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home|root|work|Users|mnt|workspace)/[\w.-]+")


def faults(source: str) -> list[str]:
    """The file and its functions that are too long; calls and keywords that run data (linters know the others)."""
    found = ["the file"] if len(source.splitlines()) > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES:
                found.append(node.name)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(node.func.id)
        elif isinstance(node, ast.keyword) and node.arg in FORBIDDEN_KEYWORDS:
            found.append(node.arg)
    return found


def machine_paths(text: str) -> list[str]:
    return MACHINE_PATH.findall(text)


def tracked_text() -> dict[str, str]:
    """Text files of the checkout that git tracks or would track; of an unpacked archive every file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = done.stdout.splitlines()
    else:
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if ".venv" not in path.parts]
    found = {}
    for name in names:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2**20 and b"\0" not in path.read_bytes()[:4096]:
            found[name] = path.read_text(errors="replace")
    return found


def test_sizes_and_calls_of_every_file_of_the_package() -> None:
    paths = [path for package in PACKAGES for path in package.rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    assert len(sources) > 200
    assert {name: found for name, text in sources.items() if (found := faults(text))} == {}


def test_no_file_names_a_path_of_a_machine() -> None:
    here = Path(__file__).resolve().relative_to(ROOT).as_posix()
    texts = tracked_text()
    assert here in texts
    assert {name: found for name, text in texts.items() if name != here and (found := machine_paths(text))} == {}


def test_each_rule_sees_what_breaks_it() -> None:
    assert faults("x = 1\n" * (MAX_FILE_LINES + 1)) == ["the file"]
    assert faults("class A:\n    async def f(self):\n" + "        x = 1\n" * MAX_FUNCTION_LINES) == ["f"]
    assert faults("def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)) == []
    assert faults("subprocess.run(text, shell=flag)") == ["shell"]
    assert faults("AutoConfig.from_pretrained(name, trust_remote_code=True)") == ["trust_remote_code"]
    assert faults("compile(text, 'a', 'exec')") == ["compile"]
    assert faults("__import__(text)") == ["__import__"]
    assert faults("re.compile(text)") == []
    assert machine_paths('open("/home/me/file")') == ["/home/me"]
    assert machine_paths("https://example.org/home/page") == []


def test_versions_are_pinned_for_everything_that_is_installed() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    assert pins["torch"] == "2.13.0"
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "([A-Za-z0-9_-]+)', project.split("[tool.", maxsplit=1)[0], flags=re.MULTILINE)
    assert len(wanted) > 20
    assert {name.lower() for name in wanted} - pinned == set()
    assert {"scikit-build-core", "nanobind"} <= pinned
