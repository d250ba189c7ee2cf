"""A pytest plugin (`-p built_kernels --kernels DIR`): the kernels built in DIR take the place of the installed ones.

`make sanitize` builds them with AddressSanitizer and UndefinedBehaviorSanitizer, `make isa` with instruction sets that
SIMDe computes; both run the tests of the operations.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ExtensionFileLoader
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", type=Path, required=True, help="the folder with the built flover._cpu")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Load the module before any test or conftest.py can import the installed one; raises if it is not built."""
    (path,) = early_config.known_args_namespace.kernels.resolve().glob("_cpu.*.so")
    loader = ExtensionFileLoader("flover._cpu", str(path))
    spec = importlib.util.spec_from_loader("flover._cpu", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["flover._cpu"] = module
    import flover

    flover._cpu = module  # type: ignore[attr-defined]


@pytest.hookimpl
def pytest_collection_finish(session: pytest.Session) -> None:
    """What the tests run is what was built there: anything else would prove nothing."""
    import flover.ops.cpu

    used, built = Path(flover.ops.cpu._cpu.__file__), session.config.getoption("kernels").resolve()
    if used.parent != built:
        raise pytest.UsageError(f"the tests would run the kernels of {used}, not those of {built}")
