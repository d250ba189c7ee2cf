"""Set before torch is imported anywhere: tests run two at a time on two cores, and never reach for the network."""

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from support.fuzz import Fuzzer

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("FLOVER_API_KEY", None)
# A shell without job control starts what it leaves in the background with SIGINT ignored, and so would every process
# that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long a draw takes says something of the machine's other work, nothing of Flover. The same draws in every run;
# `pytest --hypothesis-profile explore` makes others.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("flover", settings.get_profile("explore"), derandomize=True)
settings.load_profile("flover")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on-gpu", action="store_true", help="run kernels on this machine's GPU, not interpreted")
    parser.addoption("--soak-seconds", type=float, default=0.0, help="how long test_leaks.py runs at least")
    parser.addoption("--fuzz-seconds", type=float, default=0.0, help="how long each kind of input is fuzzed")
    parser.addoption("--fuzz-seed", type=int, default=0, help="of the inputs that are fuzzed")
    parser.addoption("--chaos-rounds", type=int, default=1, help="how often each fault of test_chaos.py comes")


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest) -> Fuzzer:
    """A few inputs of a fixed seed, or as the flags say."""
    options = request.config
    return Fuzzer(options.getoption("--fuzz-seed"), options.getoption("--fuzz-seconds"), count=60)


def pytest_configure(config: pytest.Config) -> None:
    """Before Triton is imported anywhere. Without --on-gpu there is no GPU, whatever the machine has."""
    if config.getoption("--on-gpu"):
        os.environ.pop("TRITON_INTERPRET", None)
        import torch

        if not torch.cuda.is_available():
            raise pytest.UsageError("--on-gpu: torch finds no GPU")
    else:
        os.environ["TRITON_INTERPRET"] = "1"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """What the suite imported stays: no collection of garbage looks at it again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured (`record_property`), for whoever runs them: no test fails for it."""
    measured = [found for report in terminalreporter.getreports("passed") for found in report.user_properties]
    if measured:
        terminalreporter.section("measured")
    for name, value in measured:
        terminalreporter.write_line(f"{value:10.3g}  {name}" if isinstance(value, float) else f"{value}  {name}")
