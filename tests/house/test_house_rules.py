"""Rules of the house, read off the source: who may import whom, sizes, and what no file may contain."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "flover"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60

LAYERS = ["base", "ops", "memory", "model", "engine", "observe", "ipc", "executor", "parallel", "service", "top", "cli"]
"""A part may import its own layer and those before it."""
BASE = ("request", "config", "errors", "extras", "files", "generation_config", "sampling_checks")
LAYER_OF = {
    **dict.fromkeys(BASE, "base"),
    **{layer: layer for layer in LAYERS if layer not in ("base", "top")},
    **dict.fromkeys(("llm", "server", "bench", "selftest", "ray"), "top"),
    **dict.fromkeys(("__init__", "__main__"), "cli"),
}
TEXT_READERS = {"llm", "server", "bench", "cli", "text"}
CORE_IMPORTS = {"engine", "request", "config", "errors"}
FOR_THE_DOOR_TOO = {"flover.model.locate"}
"""Imports no torch and only finds directories."""
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_TORCH = {"load", "save"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: str) -> str:
    """The part of the package that a file belongs to: a folder, or a module of its own."""
    return path.split("/")[0].removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the file; `from a import b` yields both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def flover_parts(tree: ast.AST) -> set[str]:
    found = (name.split(".") for name in imports(tree))
    return {part_of(words[1]) for words in found if words[0] == "flover" and len(words) > 1}


def typing_only(tree: ast.Module) -> ast.Module:
    """The file without its `if TYPE_CHECKING:` blocks: those import nothing when it runs."""

    class Remover(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            named = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if named else self.generic_visit(node)

    return Remover().visit(tree)


def breaks_arrows(path: str, tree: ast.AST) -> list[str]:
    """Imports of this file that point the wrong way."""
    own = part_of(path)
    wrong = []
    for part in flover_parts(tree):
        if part == "text":
            if own not in TEXT_READERS:
                wrong.append(f"{path} imports text")
        elif own == "text":
            if LAYER_OF.get(part) != "base":
                wrong.append(f"{path} imports {part}")
        elif part in LAYER_OF and LAYERS.index(LAYER_OF[part]) > LAYERS.index(LAYER_OF[own]):
            wrong.append(f"{path} imports {part}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert breaks_arrows(name_of(path), tree_of(path)) == []


def test_every_part_of_the_package_has_its_place() -> None:
    parts = {part_of(name_of(path)) for path in FILES}
    assert parts - {"text"} <= set(LAYER_OF)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/x.py", "import flover.memory.pages"),
        ("model/x.py", "from flover.engine import loop"),
        ("engine/x.py", "def f():\n    from flover.text.chat import render"),
        ("memory/x.py", "from flover import model"),
        ("text/x.py", "from flover.engine.loop import Engine"),
        ("server/x.py", "from flover.cli.main import main"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_seen(path: str, source: str) -> None:
    assert breaks_arrows(path, ast.parse(source))


TORCH_READERS = re.compile(r"ops/(reference|paged_attention)|parallel/group|bench/(accuracy|kernels/\w+|rivals/model)")
"""Everything else runs without torch: loading, kernels, sampling, the cache, the server, the command line."""


def imports_torch(tree: ast.AST) -> bool:
    return "torch" in {module.split(".")[0] for module in imports(tree)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_torch_is_an_extra_of_its_own_files(path: Path) -> None:
    assert TORCH_READERS.match(name_of(path)) or not imports_torch(tree_of(path))


def imports_ray(tree: ast.AST) -> bool:
    return "ray" in {module.split(".")[0] for module in imports(tree)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_ray_is_an_extra_of_its_own_files(path: Path) -> None:
    assert re.match(r"ray/\w+\.py$", name_of(path)) or not imports_ray(tree_of(path))


@pytest.mark.parametrize("source", ["import ray", "def f():\n    from ray.serve import handle", "import ray.util"])
def test_an_import_of_ray_is_seen(source: str) -> None:
    assert imports_ray(ast.parse(source))


def test_the_core_of_the_engine_imports_requests_configuration_and_errors_alone() -> None:
    used = {part for path in (PACKAGE / "engine").glob("*.py") for part in flover_parts(tree_of(path))}
    assert used <= CORE_IMPORTS


@pytest.mark.parametrize("path", sorted((PACKAGE / "server").glob("*.py")), ids=name_of)
def test_the_server_knows_no_torch_and_no_model(path: Path) -> None:
    tree = typing_only(tree_of(path))
    assert "torch" not in {module.split(".")[0] for module in imports(tree)}
    used = {module for module in imports(tree) if re.match(r"flover\.(model|memory|ops)\b", module)}
    assert not {module for module in used if ".".join(module.split(".")[:3]) not in FOR_THE_DOOR_TOO}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_have_a_size(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_says_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    assert path.name == "__init__.py" or path.name == "__main__.py" or ast.get_docstring(tree)


def reads_environment(tree: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"))
        or (isinstance(node, ast.alias) and node.name in ("environ", "getenv", "environb"))
        for node in ast.walk(tree)
    )


def dangers(tree: ast.AST) -> list[str]:
    """Ways to run code that came as data."""
    found = [name for name in imports(tree) if name.split(".")[0] in FORBIDDEN_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found.append(node.func.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch" and node.attr in FORBIDDEN_TORCH:
                found.append(f"torch.{node.attr}")
            if node.value.id == "os" and node.attr in ("system", "popen"):
                found.append(f"os.{node.attr}")
        if isinstance(node, ast.keyword) and node.arg in ("shell", "trust_remote_code"):
            found.append(node.arg)
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_configuration_reads_the_environment(path: Path) -> None:
    assert name_of(path) == "config/environment.py" or not reads_environment(tree_of(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_runs_code_that_came_as_data(path: Path) -> None:
    assert dangers(tree_of(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "AutoConfig.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_code_that_came_as_data_is_seen(source: str) -> None:
    assert dangers(ast.parse(source))


@pytest.mark.parametrize(
    "source", ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"]
)
def test_a_read_of_the_environment_is_seen(source: str) -> None:
    assert reads_environment(ast.parse(source))


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if part_of(name_of(path)) in ("engine", "executor", "observe", "ipc", "service")],
    ids=name_of,
)
def test_the_engine_reads_no_wall_clock_and_draws_no_lots(path: Path) -> None:
    modules = set(imports(tree_of(path)))
    assert not modules & {"random", "secrets", "uuid", "datetime"}
    wall = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute) and node.attr == "time"]
    assert not [node for node in wall if isinstance(node.value, ast.Name) and node.value.id == "time"]


def tracked_text() -> list[tuple[str, str]]:
    """Text files of the checkout that git tracks or would track; of an unpacked archive every file."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = done.stdout.splitlines()
    else:
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if ".venv" not in path.parts]
    found = []
    for name in names:
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2**20 and b"\0" not in path.read_bytes()[:4096]:
            found.append((name, path.read_text(errors="replace")))
    return found


ABSOLUTE = re.compile(r"(?<![\w.~/-])/(?:home|root|work|Users|mnt|workspace)/[\w.-]+")


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    here = Path(__file__).resolve().relative_to(ROOT).as_posix()
    found = [(name, match[0]) for name, text in tracked_text() if name != here for match in ABSOLUTE.finditer(text)]
    assert found == []


def test_a_path_of_a_machine_is_seen() -> None:
    assert ABSOLUTE.search('open("/home/me/file")')
    assert not ABSOLUTE.search("https://example.org/home/page")


def test_versions_are_pinned_for_everything_that_is_installed() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    assert pins["torch"] == "2.13.0"
    project = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "([A-Za-z0-9_-]+)', project, flags=re.MULTILINE)
    assert len(wanted) > 20
    assert {name.lower() for name in wanted} - pinned == set()
    assert {"scikit-build-core", "nanobind"} <= pinned
