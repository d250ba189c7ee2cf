"""`flover bench speculation`: the engine with `--speculative-config` and without, on texts that repeat
and on random ones.

Both engines are in this process. They take turns, batch by batch, and the ratio is the median over pairs of batches,
so that other load on the machine meets both. Their answers must be the same.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from flover.bench.serving.datasets import COMMON_IDS
from flover.bench.serving.offline_options import SpeculationOptions
from flover.errors import EngineError
from flover.llm.llm import LLM
from flover.request import SamplingParams
from flover.text.prompts import Prompt

PASSAGE = """{name} lived in a small house by the sea. Every morning the boats left the harbour at six, and came back
when the bell of the old church rang at noon. On market days there were apples, bread and cheese on the long tables,
and a man from the hills sold honey in green glasses. In winter {name} mended nets by the fire."""
CODE = """def load_{name}(path):
    with open(path) as file:
        rows = [line.rstrip().split(",") for line in file]
    return [(key.strip(), int(count)) for key, count in rows]


def total_{name}(rows):
    result = 0
    for key, count in rows:
        if key:
            result += count
    return result
"""
ROWS = (1, 4, 16)
"""Requests at once."""
RANDOM_LEN = 64
"""Tokens of a random prompt."""


@dataclass(frozen=True, slots=True)
class SpeculationResult:
    """One kind of prompts at one number of requests: output tokens per second, the medians over batches."""

    prompts: str
    num_requests: int
    without: float
    speculating: float
    ratio: float
    """Median over pairs of batches."""
    draft_tokens: int
    accepted_tokens: int


def measure_speculation(
    plain: LLM, speculating: LLM, options: SpeculationOptions, seed: int, ended: Callable[[], None]
) -> list[SpeculationResult]:
    """All kinds of prompts at all numbers of requests. Raises `EngineError` where the answers differ."""
    results = []
    for kind, params in kinds(options.output_len):
        for num_requests in ROWS:
            before = speculating.stats()
            pairs = []
            for iteration in range(options.num_iters + 1):
                rng = random.Random(f"{seed} {kind} {num_requests} {iteration}")
                prompts = [make_prompt(kind, speculating, rng) for _ in range(num_requests)]
                pairs.append(_run_pair(plain, speculating, prompts, params, swap=bool(iteration % 2)))
                ended()
            after, measured = speculating.stats(), pairs[1:]
            results.append(
                SpeculationResult(
                    kind,
                    num_requests,
                    median(one for one, _ in measured),
                    median(other for _, other in measured),
                    median(other / one for one, other in measured),
                    after.draft_tokens - before.draft_tokens,
                    after.accepted_tokens - before.accepted_tokens,
                )
            )
    return results


def kinds(output_len: int) -> Iterator[tuple[str, SamplingParams]]:
    """Kinds of prompts with their sampling: texts are continued by the likeliest token, random ids at random."""
    likeliest = SamplingParams(top_k=1, ignore_eos=True, max_tokens=output_len)
    yield "extractive", likeliest
    yield "code", likeliest
    yield "random", SamplingParams(ignore_eos=True, max_tokens=output_len, seed=0)


def make_prompt(kind: str, llm: LLM, rng: random.Random) -> Prompt:
    """A text twice and its beginning, which asks for the rest of it; or random ids."""
    if kind == "random":
        return {"prompt_token_ids": rng.choices(COMMON_IDS, k=RANDOM_LEN)}
    name = "".join(rng.choices("abcdefghij", k=6))
    text = (PASSAGE if kind == "extractive" else CODE).format(name=name) + "\n\n"
    ids = llm.get_tokenizer().encode(text)
    return {"prompt_token_ids": [*ids, *ids, *ids[:16]]}


def _run_pair(
    plain: LLM, speculating: LLM, prompts: Sequence[Prompt], params: SamplingParams, *, swap: bool
) -> tuple[float, float]:
    """Tokens per second of both, one after the other."""
    rates, answers = {}, {}
    order = [("plain", plain), ("speculating", speculating)]
    for name, llm in reversed(order) if swap else order:
        start = time.perf_counter()
        outputs = llm.generate(list(prompts), params, use_tqdm=False)
        seconds = time.perf_counter() - start
        answers[name] = [list(one.outputs[0].token_ids) for one in outputs]
        rates[name] = sum(map(len, answers[name])) / seconds
    if answers["plain"] != answers["speculating"]:
        raise EngineError("the answers with and without speculation differ")
    return rates["plain"], rates["speculating"]


def speculation_table(title: str, results: Sequence[SpeculationResult]) -> Table:
    """One row for each kind of prompts and number of requests."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("prompts")
    for name in ("requests", "tokens/s without", "with", "ratio", "proposed", "accepted"):
        table.add_column(name, justify="right")
    for one in results:
        part = f"{one.accepted_tokens / one.draft_tokens:.0%}" if one.draft_tokens else ""
        table.add_row(
            one.prompts,
            str(one.num_requests),
            f"{one.without:,.1f}",
            f"{one.speculating:,.1f}",
            f"[bold]{one.ratio:.2f} x[/bold]",
            f"{one.draft_tokens:,}",
            part,
        )
    return table
