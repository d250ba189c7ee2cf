"""Build the bundled model: generate the corpus, train a tokenizer and a small LLaMA, write the folder.

`python tools/train_bundled_model.py --minutes 40` makes `src/flover/assets/flover-tiny`; `--minutes 0.2
--documents 2000 --output /tmp/smoke` is a quick check. The machine needs no GPU and no network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

if __package__ in (None, ""):
    import sys

    sys.path.insert(0, str(Path(__file__).parent))

import torch
from bundled.data import PackedStream
from bundled.export import save_model, write_held_out
from bundled.model_card import ModelFacts, write_model_card
from bundled.tokenizer import save_tokenizer, train_tokenizer
from bundled.training import CONTEXT, make_model, perplexity, round_to_bfloat16, train
from story_corpus import make_split

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_OUTPUT = ROOT / "src" / "flover" / "assets" / "flover-tiny"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0, help="training time")
    parser.add_argument("--documents", type=int, default=120_000, help="training documents to generate")
    parser.add_argument("--held-out", type=int, default=200, help="held-out stories")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2, help="single-threaded training processes")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    return parser.parse_args()


def publish(source: Path, target: Path) -> None:
    """Move every file of the finished folder into place, so that readers never see half a file."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        path.chmod(0o644)
        path.replace(target / path.name)


def main() -> None:
    """Run the whole build."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    began = time.monotonic()

    print(f"generating {arguments.documents:,} documents", flush=True)
    split = make_split(arguments.documents, arguments.seed, arguments.held_out)
    tokenizer = train_tokenizer(split.train[:40_000], arguments.vocab)
    stream = PackedStream(tokenizer, split.train)
    print(f"{len(stream.tokens):,} tokens, {time.monotonic() - began:.0f} s", flush=True)

    model = make_model(tokenizer, arguments.seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, training for {arguments.minutes} minutes", flush=True)
    result = train(model, stream, arguments.minutes, arguments.workers)
    print(f"{result.tokens:,} tokens at {result.tokens_per_second:,.0f} tok/s", flush=True)
    full_precision = perplexity(model, tokenizer, split.held_out)
    round_to_bfloat16(model)
    rounded = perplexity(model, tokenizer, split.held_out)
    print(f"held-out perplexity: float32 {full_precision:.3f}, bfloat16 weights {rounded:.3f}", flush=True)

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.output.parent, prefix=".building-") as building:
        folder = Path(building)
        save_model(model, tokenizer, folder)
        save_tokenizer(tokenizer, folder, CONTEXT)
        write_held_out(split.held_out, folder)
        facts = ModelFacts(
            minutes=arguments.minutes,
            documents=arguments.documents,
            seed=arguments.seed,
            parameters=parameters,
            corpus_tokens=len(stream.tokens),
            training=result,
            perplexity_float32=full_precision,
            perplexity_bfloat16=rounded,
        )
        write_model_card(folder, facts)
        publish(folder, arguments.output)
    print(f"wrote {arguments.output} in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
