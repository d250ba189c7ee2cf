"""The commands of this package: parts of `flover bench`, and `flover simulate`."""

from __future__ import annotations

from typing import Any

from flover_benchmarks.commands import adapters, gpu, measures, offload, paper, rivals, structured_outputs


def add(kinds: Any) -> None:
    """The parsers of the parts of `flover bench`."""
    measures.add_kernels(kinds)
    measures.add_accuracy(kinds)
    measures.add_ranks(kinds)
    adapters.add_lora(kinds)
    offload.add_offload(kinds)
    structured_outputs.add_structured_outputs(kinds)
    rivals.add_rivals(kinds)
    gpu.add_gpu(kinds)
    paper.add(kinds)
