"""A pytest plugin (`-p sanitized`) that puts the kernels of build/sanitize in the place of the installed ones.

`make sanitize` builds them with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests of the operations.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build" / "sanitize"


def pytest_configure() -> None:
    """Load the module; raises if it has not been built."""
    (path,) = BUILD.glob("_cpu.*.so")
    loader = ExtensionFileLoader("flover._cpu", str(path))
    spec = importlib.util.spec_from_loader("flover._cpu", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["flover._cpu"] = module
