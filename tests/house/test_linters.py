"""Every rule that `make check` leaves to a linter is seen to fail: a copy of the sources with planted violations."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import importlinter

ROOT = Path(__file__).resolve().parents[2]
LAYERS = "A part imports its own layer and those below it"
UNPICKLES = "Nothing unpickles"
PLANTED_IMPORTS = [
    (LAYERS, "a_part_without_a_layer.py", ""),
    (LAYERS, "ops/p1.py", "import flover.memory.kvcache"),
    (LAYERS, "model/p2.py", "from flover.observe import trace"),
    (LAYERS, "engine/p3.py", "def f():\n    from flover.text.chat import render"),
    (LAYERS, "memory/p4.py", "from flover import model"),
    (LAYERS, "text/p5.py", "from flover.engine.loop import Engine"),
    (LAYERS, "server/p6.py", "from flover.cli.main import main"),
    (LAYERS, "observe/p7.py", "from flover.ipc import wire"),
    (LAYERS, "executor/p8.py", "from flover.parallel import ranks"),
    (LAYERS, "engine/p9.py", "from flover.memory import kvcache"),
    ("What computes knows nothing of the engine", "model/p10.py", "from flover.engine import loop"),
    ("The engine imports requests, configuration and errors alone", "engine/p11.py", "import flover.files"),
    ("Text is outside the engine", "service/p12.py", "from flover.text import chat"),
    ("The server knows no model", "server/p13.py", "from flover.model import decoder"),
    ("torch is an extra of its own files", "model/p14.py", "def f():\n    from torch import nn"),
    ("Triton is the GPU's", "model/p20.py", "def f():\n    import triton"),
    ("ray is an extra of its own files", "parallel/p15.py", "def f():\n    from ray.serve import handle"),
    ("OpenTelemetry is an extra of its own file", "engine/p21.py", "from opentelemetry import trace"),
    ("The engine draws no lots and reads no calendar", "ipc/p16.py", "from random import random"),
    ("The package works without its benchmarks", "cli/p19.py", "from flover_benchmarks import accuracy"),
    (UNPICKLES, "config/p17.py", "import pickle"),
    (UNPICKLES, "text/p18.py", "from marshal import loads"),
]
PLANTED_CODE = [
    ("S102", "exec(text)"),
    ("S307", "eval(text)"),
    ("S301", "import pickle\n\npickle.loads(data)"),
    ("S602", "import subprocess\n\nsubprocess.run(text, shell=True)"),
    ("S605", "import os\n\nos.system(text)"),
    ("TID251", "import os\n\nos.popen(text)"),
    ("TID251", "import os\n\nprint(os.environ['A'])"),
    ("TID251", "import os\n\nprint(os.getenv('A'))"),
    ("TID251", "from os import environ"),
    ("TID251", "import torch\n\ntorch.load(path)"),
    ("TID251", "import time\n\nprint(time.time())"),
    ("TID251", "from time import time"),
    ("TID252", "from . import loop"),
    ("T201", "print(text)"),
    ("D100", "a = 1"),
]
LINT_IMPORTS = """
import sys
sys.path[:0] = sys.argv[1:]
from importlinter.cli import lint_imports
sys.exit(lint_imports(no_cache=True))
"""
"""Run without the `site` module, where an editable installation would lead back to the sources themselves."""


def sections_of(report: str) -> dict[str, str]:
    """What import-linter says of each broken contract, by the name of the contract."""
    parts = re.split(r"^(.+)\n-{5,}$", report.split("Broken contracts", maxsplit=1)[1], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_import_contract_sees_what_breaks_it(tmp_path: Path) -> None:
    for package in (ROOT / "src" / "flover", ROOT / "benchmarks" / "flover_benchmarks"):
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for _, path, source in PLANTED_IMPORTS:
        (tmp_path / "flover" / path).write_text(source)
    libraries = str(Path(importlinter.__file__).parents[1])
    others = [entry for entry in sys.path if entry.endswith("site-packages")]
    command = [sys.executable, "-S", "-c", LINT_IMPORTS, str(tmp_path), libraries, *others]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = sections_of(done.stdout)
    missed = [
        (contract, path)
        for contract, path, _ in PLANTED_IMPORTS
        if not re.search(rf"flover\.{path.removesuffix('.py').replace('/', '.')}\b", broken.get(contract, ""))
    ]
    assert missed == []
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == {contract for contract, _, _ in PLANTED_IMPORTS}


def test_every_lint_rule_sees_what_breaks_it(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "flover" / "engine"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for number, (_, source) in enumerate(PLANTED_CODE):
        (folder / f"p{number}.py").write_text(source)
    command = [Path(sys.executable).parent / "ruff", "check", "--no-cache", "--output-format", "json", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = {(Path(one["filename"]).stem, one["code"]) for one in json.loads(done.stdout)}
    missed = [source for number, (code, source) in enumerate(PLANTED_CODE) if (f"p{number}", code) not in found]
    assert missed == []
