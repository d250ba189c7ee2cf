"""Options of the simulation: `--sim-seeds N` for a longer run, `--sim-seed S` to replay one seed."""

from __future__ import annotations

import pytest

DEFAULT_SEEDS = 100
DEFAULT_STEPS = 300
"""Every planted bug is found in as many; `.ci/run` simulates 500 seeds, and 1000 iterations of each."""
GROUP = 10
"""Seeds per test, so that workers can share the seeds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sim-seeds", type=int, default=DEFAULT_SEEDS, help="how many seeds to simulate")
    parser.addoption("--sim-seed", type=int, default=None, help="simulate only this seed")
    parser.addoption("--sim-steps", type=int, default=DEFAULT_STEPS, help="iterations of a simulated run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" not in metafunc.fixturenames:
        return
    # Absent where this directory is not on the command line.
    only = metafunc.config.getoption("--sim-seed", None)
    count = metafunc.config.getoption("--sim-seeds", DEFAULT_SEEDS)
    groups = [range(first, min(first + GROUP, count)) for first in range(0, count, GROUP)]
    if only is not None:
        groups = [range(only, only + 1)]
    metafunc.parametrize("seeds", groups, ids=[f"{group[0]}-{group[-1]}" for group in groups])


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> int:
    """Iterations during which requests arrive."""
    count = request.config.getoption("--sim-steps", DEFAULT_STEPS)
    assert isinstance(count, int)
    return count
