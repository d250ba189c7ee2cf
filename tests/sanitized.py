"""A pytest plugin (`-p sanitized`) that puts the kernels of build/sanitize in the place of the installed ones.

`make sanitize` builds them with AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests of the operations.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[1] / "build" / "sanitize"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Load the module before any test or conftest.py can import the installed one; raises if it is not built."""
    (path,) = BUILD.glob("_cpu.*.so")
    loader = ExtensionFileLoader("flover._cpu", str(path))
    spec = importlib.util.spec_from_loader("flover._cpu", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["flover._cpu"] = module
    import flover

    flover._cpu = module  # type: ignore[attr-defined]


def pytest_collection_finish() -> None:
    """What the tests run is what was built here: anything else would prove nothing."""
    import flover.ops.cpu

    used = Path(flover.ops.cpu._cpu.__file__)
    if used.parent != BUILD:
        raise pytest.UsageError(f"the tests would run the kernels of {used}, not those of {BUILD}")
