"""The parts of `flover bench gpu`: what each measures, on which model, and how many seconds it has. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flover.bench.presets import PRESETS

MODELS = ("llama-3.2-1b", "llama-3-8b", "llama-13b", "gpt-j-6b")
ROWS, CONTEXTS = (1, 8, 32, 128, 256), (512, 4096)
TINY: dict[str, dict[str, Any]] = {
    "tiny-llama": {
        **PRESETS["llama-3-8b"],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 48,
        "vocab_size": 320,
        "torch_dtype": "float32",
        "max_position_embeddings": 1024,
    },
    "tiny-gpt-j": {
        **PRESETS["gpt-j-6b"],
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 64,
        "n_positions": 1024,
        "rotary_dim": 8,
        "vocab_size": 320,
        "torch_dtype": "float32",
    },
}
"""Small models: what parity is checked on, and all that is measured where the interpreter takes a GPU's place."""
_LONG = {"llama-13b": {"max_position_embeddings": 8192}, "gpt-j-6b": {"n_positions": 8192}}
"""Models of 2,048 tokens are measured at longer contexts too; their weights are the same."""
SHAPES = {name: {**shape, **_LONG.get(name, {})} for name, shape in (PRESETS | TINY).items()}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. `budget` is seconds of all parts together."""

    budget: float
    rows: tuple[int, ...] = ROWS
    contexts: tuple[int, ...] = CONTEXTS
    steps: int = 30  # of each number of rows and context
    num_requests: int = 32  # of the paper's experiments
    output_len: int = 128  # of a request there, which has 512 in the paper
    instances: int = 4  # engine processes of the concurrent baseline, at most
    batches: tuple[int, ...] = (32, 128)  # requests at once, compared with transformers
    parity: tuple[str, ...] = tuple(TINY)
    spreads: tuple[int, ...] = (4, 8, 12, 16)  # E6: longest length over the least
    copy_bytes: int = 2**31
    product_size: int = 8192


FULL = Sizes(540.0)
QUICK = Sizes(
    budget=58.0,
    rows=(1, 32, 128),
    contexts=(512,),
    steps=15,
    num_requests=16,
    output_len=32,
    parity=("tiny-llama",),
)
INTERPRETED = Sizes(
    budget=600.0,
    rows=(1, 3),
    contexts=(40,),
    steps=2,
    num_requests=3,
    output_len=4,
    instances=2,
    batches=(2,),
    parity=("tiny-llama",),
    spreads=(4,),
    copy_bytes=2**16,
    product_size=64,
)


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One part, measured in a process of its own within so many `seconds`. `known` is what parts before it found."""

    name: str
    model: str
    device: str  # cuda, or cpu: tensors of the CPU, for Triton's interpreter
    seconds: float
    sizes: Sizes
    known: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """For tables and progress."""
        return f"{self.name} {self.model}".strip()

    def to_json(self) -> dict[str, Any]:
        """Its fields as a document."""
        return asdict(self)

    @staticmethod
    def from_json(document: dict[str, Any]) -> PartSpec:
        """The same from a document."""
        sizes: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in document["sizes"].items()}
        return PartSpec(**{**document, "sizes": Sizes(**sizes)})


SHARES = {"parity": 8.0, "limits": 2.0, "steps": 5.0, "E1": 7.0, "E6": 6.0, "concurrent": 6.0, "transformers": 6.0}
"""What a part weighs when the budget is shared out; the first compiles most kernels. What a part leaves goes to those
after it."""
QUICK_PARTS = ("parity", "limits", "steps", "E1")


def all_parts(models: Sequence[str], device: str, sizes: Sizes, quick: bool) -> list[PartSpec]:
    """Every part in its order, without seconds. The experiments are the paper's, on its models; a quick run has one
    model and no other engines."""
    steps = models[:1] if quick else models
    paper = [model for model in models if model in ("gpt-j-6b", "llama-13b", *TINY)] or list(models[:1])
    named = [("parity", ""), ("limits", ""), *(("steps", model) for model in steps)]
    if quick:
        named.append(("E1", steps[0]))
    else:
        named += [(name, model) for model in paper for name in ("E1", "concurrent")]
        named += [("E6", paper[0]), ("transformers", models[1] if len(models) > 1 else models[0])]
    return [PartSpec(name, model, device, 0.0, sizes) for name, model in named]


def seconds_for(parts: Sequence[PartSpec], left: float) -> float:
    """Seconds for the first of these parts, when so many are left for all of them."""
    weights = [SHARES[part.name] for part in parts]
    return max(0.0, left) * weights[0] / math.fsum(weights)
