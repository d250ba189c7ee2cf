"""Those defects of the code released with the Flover paper (arXiv 2305.13484) that need tensors to be seen; the others
are in `tests/engine/test_paper_defects.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.checkpoints import make_checkpoint, random_prompt

from flover.memory.kvcache import KVCache
from flover.model.config import parameter_shapes
from flover.model.hf_config import read_model_directory
from flover.ops.reference import page_shapes

from .driver import Driver, load

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


def test_defect_3_keys_and_values_share_one_buffer(checkpoint: Path) -> None:
    _, config = read_model_directory(checkpoint)
    kv = KVCache(config, num_pages=4, page_size=4, dtype="float32", page_shapes=page_shapes)
    pools = [pool for pages in kv.layers for pool in (pages.keys, pages.values)]
    for number, pool in enumerate(pools):
        pool.fill(number)
    for number, pool in enumerate(pools):
        assert bool((pool == number).all()), f"pool {number} was overwritten through another"


def test_defect_5_the_stride_of_a_layer_depends_on_the_batch(checkpoint: Path) -> None:
    """Rows join and leave around one that goes on; its logits are those it has alone."""
    tokens = random_prompt(1, 24)
    expected = Driver(load(checkpoint)).step({0: tokens})[0]
    crowd = Driver(load(checkpoint))
    crowd.step({0: tokens[:10]})
    for position in range(10, 24):
        others = {row: random_prompt(row, 3) for row in range(1, 1 + position % 4)}
        logits = crowd.step({**others, 0: tokens[position : position + 1]})[0]
        torch.testing.assert_close(logits[0], expected[position], rtol=TOLERANCE, atol=TOLERANCE)


def test_defect_6_the_position_is_a_constant(checkpoint: Path) -> None:
    """The same tokens further along are not the same: positions reach the rotation."""
    loaded = load(checkpoint)
    tokens = random_prompt(2, 6)
    first = Driver(loaded).step({0: tokens})[0][-1]
    shifted = Driver(loaded).step({0: [tokens[-1], *tokens[:-1], tokens[-1]]})[0][-1]
    assert not torch.allclose(first, shifted, atol=1e-2)
    swapped = Driver(loaded).step({0: [tokens[1], tokens[0], *tokens[2:]]})[0][-1]
    assert not torch.allclose(first, swapped, atol=1e-2)


def test_defect_7_the_final_norm_sees_only_the_first_rows(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    pieces = {row: random_prompt(10 + row, 1 + row) for row in range(7)}
    fused = Driver(loaded).step(pieces)
    for row, tokens in pieces.items():
        expected = Driver(loaded).step({0: tokens})[0]
        torch.testing.assert_close(fused[row], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_defect_10_sizes_are_written_in_the_code_and_wrong(tmp_path: Path) -> None:
    """The width of the feed-forward layer is what the checkpoint says, whatever it says."""
    path = make_checkpoint(tmp_path, "llama", intermediate_size=52)
    _, config = read_model_directory(path)
    shapes = parameter_shapes(config)
    assert config.intermediate_size == 52
    assert any(52 in shape or 104 in shape for shape in shapes.values())
    assert bool(torch.isfinite(Driver(load(path)).step({0: [1, 2, 3]})[0]).all())
