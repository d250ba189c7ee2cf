"""Count what a generate step moves to and from a GPU's memory, layer by layer, against the least that it must.

    python tools/cuda_step_bytes.py [--model llama-3-8b] [--rows 1 32]

Launches are those of a step as `cuda_kernels.py` compiles it, without a GPU. What a launch may move is every tensor
that it is given, once; keys and values are what the rows' contexts have, and of the table of embeddings a row for each
token. The least is the layer's matrices once, and its keys and values. Ends with status 1 where a layer moves more than
MOST times that, or takes more launches than it should.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from typing import Any

from cuda_kernels import MODELS, MOST_LAUNCHES, CompilingDriver, TorchLaunches, batch_of, config_of, decoder_of, empty
from torch import Tensor, bfloat16
from triton.runtime.driver import driver

from flover.model.config import ModelConfig, parameter_shapes
from flover.ops import Pages

MOST = 1.03
"""Of the least; activations are the rest."""
ARCH, CONTEXT, PAGE_SIZE, PAGES = 90, 4096, 16, 8192


class CountingDriver(CompilingDriver):
    """Adds up the bytes of the tensors of each launch, but of those in `apart`."""

    def __init__(self, arch: int) -> None:
        super().__init__(arch)
        self.moved = 0
        self.apart: dict[int, Tensor] = {}  # by identity, which only what lives has for itself

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """Called with all that a launch is given."""
        launch = super().launcher_cls(source, metadata)

        def counted(*args: Any) -> None:
            launch(*args)
            self.note(flat(args))

        return counted

    def note(self, found: Iterable[Any]) -> None:
        """A launch with these arguments."""
        tensors = {id(one): one for one in found if isinstance(one, Tensor) and id(one) not in self.apart}
        self.moved += sum(one.nbytes for one in tensors.values())


class CountingTorch(TorchLaunches):  # type: ignore[no-untyped-call]
    """Likewise for torch's operations: what they take and give."""

    def __init__(self, counted: CountingDriver) -> None:
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

    def __init__(self, config: ModelConfig, counted: CountingDriver) -> None:
        shape = PAGES, config.num_kv_heads, PAGE_SIZE, config.head_dim
        made = [(empty(shape, bfloat16), empty(shape, bfloat16)) for _ in config.layers]
        counted.apart |= {id(one): one for pair in made for one in pair}
        self.layers = tuple(Pages(*pair, PAGE_SIZE, "bfloat16") for pair in made)


def step(config: ModelConfig, rows: int, counted: CountingDriver) -> tuple[int, int]:
    """Bytes and launches of a step's forward, keys, values and embeddings left out."""
    decoder, pool = decoder_of(config, batch_invariant=False), OnePool(config, counted)
    table: Any = decoder.weights.matrices["embed.weight"]
    counted.apart[id(table.data)] = table.data
    bytes_before, launches_before = counted.moved, len(counted.launches)
    with CountingTorch(counted) as by_torch:
        decoder.forward(batch_of([1] * rows, CONTEXT), pool)  # type: ignore[arg-type]
    return counted.moved - bytes_before, len(counted.launches) - launches_before + by_torch.count


def layer_bytes(config: ModelConfig) -> int:
    """Of one layer's matrices."""
    shapes = parameter_shapes(config).items()
    return 2 * sum(math.prod(shape) for name, shape in shapes if len(shape) == 2 and name.startswith("layers.0."))


def count(model: str, rows: int, counted: CountingDriver) -> tuple[float, int]:
    """Bytes of a layer over the least, and its launches: what two layers take less what one takes."""
    one, two = (step(config_of(model, layers), rows, counted) for layers in (1, 2))
    config = config_of(model)
    kept = 2 * 2 * rows * CONTEXT * config.kv_size
    least = layer_bytes(config) + kept
    return (two[0] - one[0] + kept) / least, two[1] - one[1]


def main() -> int:
    parser = argparse.ArgumentParser(description="count the bytes and launches of a generate step without a GPU")
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    args = parser.parse_args()
    counted = CountingDriver(ARCH)
    driver.set_active(counted)
    print("| model | rows | bytes of a layer / least | launches of a layer |\n|---|---|---|---|")
    wrong = 0
    for model in args.model or MODELS:
        for rows in args.rows:
            ratio, launches = count(model, rows, counted)
            print(f"| {model} | {rows} | {ratio:.4f} | {launches} |")
            wrong += ratio > MOST or launches > MOST_LAUNCHES
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
