"""Count what a generate step moves to and from a GPU's memory, layer by layer, against the least that it must.

    python tools/cuda_step_bytes.py [--model llama-3-8b] [--format bfloat16 int8] [--rows 1 32]

Launches are those of a step on tensors without memory, and none is compiled. What a launch may move is every tensor
that it is given, once; keys and values are what the rows' contexts have, and of the table of embeddings a row for each
token. The least is the layer's matrices once, and its keys and values. Ends with status 1 where a layer moves more than
MOST times that, or takes more launches than it should.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import product
from typing import Any

from cuda_kernels import MODELS, MOST_LAUNCHES, TorchLaunches, batch_of, config_of, decoder_of, empty
from torch import Tensor, bfloat16
from triton.runtime.jit import JITFunction

from flover.model.config import ModelConfig
from flover.ops import Pages, WeightFormat
from flover.ops.cuda.quantized import QUANTIZED

MOST = 1.03
"""Of the least; activations are the rest."""
CONTEXT, PAGE_SIZE, PAGES = 4096, 16, 8192


class Counted:
    """Launches, and the bytes of the tensors of each, but of those in `apart`."""

    def __init__(self) -> None:
        self.moved = 0
        self.launches: list[str] = []
        self.apart: dict[int, Tensor] = {}  # by identity, which only what lives has for itself

    def count_launches(self) -> None:
        """From now on, in the place of Triton's compiler."""

        def launch(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
            self.launches.append(kernel.__name__)
            self.note(flat((args, tuple(options.values()))))

        JITFunction.run = launch

    def note(self, found: Iterable[Any]) -> None:
        """A launch with these arguments."""
        tensors = {id(one): one for one in found if isinstance(one, Tensor) and id(one) not in self.apart}
        self.moved += sum(one.nbytes for one in tensors.values())


class CountingTorch(TorchLaunches):  # type: ignore[no-untyped-call]
    """Likewise for torch's operations: what they take and give."""

    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.count
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if self.count > before:
            self._counted.note(flat((args, result)))
        return result


def flat(value: Any) -> Iterable[Any]:
    """What is in tuples and lists, however deep."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from flat(item)
    else:
        yield value


class OnePool:
    """Pages of so many layers, each with a pool of its own."""

    def __init__(self, config: ModelConfig, counted: Counted) -> None:
        shape = PAGES, config.num_kv_heads, PAGE_SIZE, config.head_dim
        made = [(empty(shape, bfloat16), empty(shape, bfloat16)) for _ in config.layers]
        counted.apart |= {id(one): one for pair in made for one in pair}
        self.layers = tuple(Pages(*pair, PAGE_SIZE, "bfloat16") for pair in made)


def step(config: ModelConfig, weight_format: WeightFormat, rows: int, counted: Counted) -> tuple[int, int, int]:
    """Bytes and launches of a step's forward, keys, values and embeddings left out; bytes of the layers' matrices."""
    decoder = decoder_of(config, batch_invariant=False, weight_format=weight_format)
    pool, matrices = OnePool(config, counted), decoder.weights.matrices
    table: Any = matrices["embed.weight"]
    counted.apart[id(table.data)] = table.data
    bytes_before, launches_before = counted.moved, len(counted.launches)
    with CountingTorch(counted) as by_torch:
        decoder.forward(batch_of([1] * rows, CONTEXT), pool)  # type: ignore[arg-type]
    own = sum(weight.num_bytes for name, weight in matrices.items() if name.startswith("layers."))
    return counted.moved - bytes_before, len(counted.launches) - launches_before + by_torch.count, own


def count(model: str, weight_format: WeightFormat, rows: int, counted: Counted) -> tuple[float, int]:
    """Bytes of a layer over the least, and its launches: what two layers take less what one takes."""
    one, two = (step(config_of(model, layers), weight_format, rows, counted) for layers in (1, 2))
    moved, launches, matrices = (second - first for first, second in zip(one, two, strict=True))
    kept = 2 * 2 * rows * CONTEXT * config_of(model).kv_size
    return (moved + kept) / (matrices + kept), launches


def main() -> int:
    parser = argparse.ArgumentParser(description="count the bytes and launches of a generate step without a GPU")
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--format", choices=("bfloat16", *QUANTIZED), nargs="+")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    args = parser.parse_args()
    counted = Counted()
    counted.count_launches()
    print("| model | format | rows | bytes of a layer / least | launches of a layer |\n|---|---|---|---|---|")
    wrong = 0
    for model, weight_format, rows in product(args.model or MODELS, args.format or ("bfloat16", *QUANTIZED), args.rows):
        ratio, launches = count(model, weight_format, rows, counted)
        print(f"| {model} | {weight_format} | {rows} | {ratio:.4f} | {launches} |")
        wrong += ratio > MOST or launches > MOST_LAUNCHES
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
