"""The sampler of a GPU under Triton's interpreter, or with --on-gpu on one, against the one of the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.gpu import DEVICE

from flover.memory.columns import Feature
from flover.model.sampling import sample
from flover.model.sampling.edit import edit_logits, masks_of
from flover.model.sampling.logprobs import token_logprobs
from flover.model.sampling.packed import pack
from flover.model.sampling.philox import uniforms
from flover.ops import reference
from flover.ops.cuda.choose import choose, logprobs, to_device
from flover.ops.cuda.edit import edited
from flover.ops.cuda.philox import uniforms as device_uniforms
from flover.ops.order import argmax
from model.sampling_reference import VOCAB, Asker, SomeTokens, seat

pytestmark = pytest.mark.gpu


CROWD = [
    Asker(temperature=0.0),
    Asker(seed=5, temperature=0.9),
    Asker(seed=-7, temperature=1.7, top_k=7, top_p=0.9),
    Asker([3, 4, 5], [4, 4, 6], 11, temperature=0.0, repetition_penalty=1.8, frequency_penalty=0.25),
    Asker([3, 4, 5], [4, 4, 6], 2**62, temperature=1.2, presence_penalty=-0.7, repetition_penalty=1.1, min_p=0.05),
    Asker([1], [7], 3, [[8], [7, 9], [6, 10]], temperature=0.8, logit_bias={9: 100.0, 8: 100.0, 11: 3.5}),
    Asker([1], [7], 4, temperature=0.6, allowed_token_ids=[2, 3, 5, 38, 39], top_p=0.5),
    Asker([1], [], 5, temperature=0.0, min_tokens=3, stop_token_ids=[12], logit_bias={12: 50.0, 13: 20.0}),
    Asker([1], [], 6, [[2], [3]], temperature=0.7, allowed_token_ids=[2, 3]),  # none is left
    Asker(seed=8, temperature=1.0, allowed_token_ids=[2, 3]),  # another of its logits is no number
    Asker(seed=9, temperature=1.5, top_k=20),  # with a grammar
    Asker([1], [2], 10, temperature=1.0, allowed_token_ids=[0, 1, 2, 3, 4, 5, 6], repetition_penalty=0.5),  # and here
]
BAD, GRAMMARS = 9, (10, 11)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("members", [range(len(CROWD)), (1, 2, 9), (5, 8), (0,)], ids=len)
def test_all_rows_get_what_the_host_gives_them(members: tuple[int, ...], seed: int) -> None:
    """Edits, draws and errors of a crowd, of rows without edits, of rows with edits alone, and of a greedy row."""
    buffers = seat([CROWD[member] for member in members])
    logits = 3 * torch.randn(len(CROWD), VOCAB, generator=torch.Generator().manual_seed(seed))[list(members)]
    for place, member in enumerate(members):
        if member == BAD:
            logits[place, 4] = torch.nan
        if member in GRAMMARS:
            buffers["grammar"][place] = SomeTokens()
            buffers["features"][place] |= Feature.GRAMMAR
    rows, there = buffers.view(np.arange(len(members))), logits.to(DEVICE, copy=True)
    choices = to_device(pack(rows, VOCAB), DEVICE)
    if choices.edits is not None:
        places = choices.edits.rows.cpu().numpy()
        copy = logits.numpy()[places]
        edit_logits(copy, rows.select(places), rows["features"][places])
        argmax(copy, masks_of(rows.select(places), rows["features"][places] & Feature.GRAMMAR != 0, VOCAB))
        assert np.array_equal(edited(there, choices.edits).cpu().numpy(), copy, equal_nan=True)
    ids, best = choose(there, choices)
    assert torch.equal(there.cpu().nan_to_num(), logits.nan_to_num())
    expected = sample(logits.numpy(), rows, reference.OPS)
    assert ids.tolist() == expected.token_ids.tolist()
    assert {place for place, largest in enumerate(best.tolist()) if not np.isfinite(largest)} == set(expected.errors)


def test_random_numbers_are_those_of_the_host() -> None:
    seeds, positions = np.array([0, 1, -1, 2**63 - 1, -(2**63)] * 30), np.arange(150) ** 5
    drawn = device_uniforms(torch.from_numpy(seeds).to(DEVICE), torch.from_numpy(positions).to(DEVICE))
    assert np.array_equal(drawn.cpu().numpy(), uniforms(seeds, positions))


def test_logprobs_are_those_of_the_host() -> None:
    logits = (2 * torch.randn(4, 5000, generator=torch.Generator().manual_seed(3))).round(decimals=1)  # with ties
    chosen = torch.tensor([0, 4999, 17, 2500])
    for num_top in (0, 5):
        found = [values.tolist() for values in logprobs(logits.to(DEVICE), chosen.to(DEVICE), num_top)]
        host = token_logprobs(logits.numpy(), chosen.numpy(), np.full(4, num_top), reference.OPS)
        assert found[0] == [entry.token_ids for entry in host]
        assert found[2] == [entry.ranks for entry in host]
        np.testing.assert_allclose(found[1], [entry.logprobs for entry in host], rtol=1e-6)
