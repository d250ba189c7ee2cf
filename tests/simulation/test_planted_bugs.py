"""A checker that never fired proves nothing: every planted bug must turn the right law red."""

from __future__ import annotations

import pytest

from . import async_plants as async_plants
from . import offload_plants as offload_plants
from . import shares_plants as shares_plants
from . import speculation_plants as speculation_plants
from .plants import PLANTS, Plant
from .simulator import RunFailed, simulate
from .text_plants import TEXT_PLANTS
from .workload import FLAVOURS


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.name for plant in PLANTS])
def test_the_right_law_goes_red(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.apply(monkeypatch)
    first = FLAVOURS.index(plant.flavour)
    with pytest.raises(RunFailed) as failure:
        for seed in range(first, first + 60 * len(FLAVOURS), len(FLAVOURS)):
            simulate(seed, steps=300)
    assert failure.value.law in plant.laws, failure.value.broken
    assert f"python -m tests.simulation {failure.value.seed}" in str(failure.value)


def test_the_law_of_texts_has_plants_of_its_own() -> None:
    assert len(TEXT_PLANTS) >= 3
