"""What Triton would compile after the warm-up: nothing. Forwards of quantized models on tensors without memory, of all
numbers of rows and of chunks, each launch with what Triton tells its kernels apart by. `test_cuda_compiled.py` runs it,
for it needs a Triton that does not interpret."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from cuda_kernels import MODELS, CompilingDriver, MetaPages, batch_of, config_of, decoder_of, empty
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from flover.memory.graph_sizes import warm_up_batches
from flover.ops.cuda import SPLIT

MOST_TOKENS, PAGES_OF_A_ROW = 100, 256
NAMES = *MODELS, "qwen3-moe-1.3b"
FORMATS = "bfloat16", "int8", "int4", "q4_k", "int4_g32", "fp8_e4m3"
missing: list[str] = []


def compiled(kernel: JITFunction[Any], key: Any, signature: Any, device: int, *rest: Any) -> SimpleNamespace:
    """In the place of Triton's compiler."""
    missing.append(kernel.__name__)
    made = SimpleNamespace(launch_metadata=lambda *_: None, run=lambda *_: None, function=0, packed_metadata=())
    kernel.device_caches[device][0][key] = made
    return made


def main() -> int:
    driver.set_active(CompilingDriver(90))  # type: ignore[no-untyped-call]
    JITFunction._do_compile = compiled  # type: ignore[method-assign]
    late = []
    for model in NAMES:
        for weight_format in FORMATS:
            config = config_of(model)
            decoder = decoder_of(config, batch_invariant=False, weight_format=weight_format)  # type: ignore[arg-type]
            pages: Any = MetaPages(config, "bfloat16")

            def forward(lens: tuple[int, ...], longest: int) -> None:
                batch = batch_of(lens, longest)
                table = empty((len(lens), PAGES_OF_A_ROW), torch.int32)
                decoder.logits(decoder.forward(replace(batch, page_table=table), pages))  # noqa: B023

            for lens, longest in warm_up_batches(PAGES_OF_A_ROW):
                forward(lens, longest)
            missing.clear()
            for tokens in range(1, MOST_TOKENS):
                for longest in (SPLIT, SPLIT + 1):
                    forward((1,) * tokens, longest)
                forward((1, tokens), SPLIT)
            late += [f"{model} {weight_format}: {', '.join(sorted(set(missing)))}"] if missing else []
    sys.stdout.write("\n".join([*late, f"{len(NAMES) * len(FORMATS)} models"]) + "\n")
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
