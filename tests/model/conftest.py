"""One thread: the models are tiny, and the machine is shared."""

import pytest
import torch

from flover.ops import Ops, reference
from flover.ops.cpu import cpu_ops, instruction_sets

IMPLEMENTATIONS = (reference.OPS, *(cpu_ops(isa, 2) for isa in instruction_sets()))


@pytest.fixture(scope="module", params=IMPLEMENTATIONS, ids=lambda ops: ops.name)
def ops(request: pytest.FixtureRequest) -> Ops:
    """Every implementation of the operations in turn."""
    made: Ops = request.param
    return made


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
