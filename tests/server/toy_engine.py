"""An engine whose tokens can be computed by hand, as a process: the true loop, scheduler and process code, and an
executor that repeats the prompt.

Token i of a sequence is prompt[(shift + i) % len(prompt)], where shift is 0 for greedy requests and the sequence's
seed otherwise. Ids below 256 are bytes of text, 256 is end-of-sequence. A prompt with POISON fails its row, one with
DEADLY ends the process. Its trace is its process id. With --once FILE only the first process with that FILE gets as far
as loading; with --drift FILE each process with that FILE has a shift that is greater by one, and says that it is not
deterministic; while there is that FILE, with --hang-if FILE none gets further and with --fail-if FILE none loads.

    python toy_engine.py [--delay S] [--load-delay S] [--fail KIND] [--die-after STEPS] [--once FILE] [--hang-if FILE]
                         [--fail-if FILE] [--drift FILE] FD
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flover.config import EngineConfig
from flover.engine.executor import BlockingExecutor
from flover.engine.loop import Engine
from flover.engine.plan import Admission, RowResult, StepPlan, StepResult, Work
from flover.engine.roster import SchedulerConfig
from flover.errors import ConfigError, ModelError, OutOfResourcesError
from flover.grammar.state import ids_of
from flover.grammar.thinking import ThinkingState
from flover.request import ModelFacts, SamplingParams, TokenLogprobs
from flover.service import process

EOS, DEADLY, POISON, VOCAB_SIZE = 256, 298, 299, 300
MAX_MODEL_LEN = 2048
PAGE_SIZE = 16
HIDDEN_SIZE = 3
POOL_TOKENS = 4096
FAILURES = {
    "model": ModelError,
    "config": ConfigError,
    "engine": ZeroDivisionError,
    "resources": OutOfResourcesError,
}


def toy_tokens(prompt_ids: list[int], count: int, shift: int = 0) -> list[int]:
    """What the toy generates, end-of-sequence not regarded."""
    return [prompt_ids[(shift + i) % len(prompt_ids)] for i in range(count)]


@dataclass
class Row:
    prompt_ids: list[int]
    params: SamplingParams
    shift: int
    made: int
    thinking: ThinkingState | None = None


def entry(token: int, alternatives: int) -> TokenLogprobs:
    """The chosen token at -0.5, then it again and its successors at -0.5, -1.5, ..."""
    ids = [token] + [(token + i) % VOCAB_SIZE for i in range(alternatives)]
    return TokenLogprobs(ids, [-0.5] + [-0.5 - i for i in range(alternatives)], [1, *range(1, alternatives + 1)])


def budgeted(token: int, thinking: ThinkingState) -> int:
    """The token, or the only one that a spent budget allows."""
    allowed = ids_of(thinking.words(), VOCAB_SIZE)
    return token if token in allowed else int(allowed[0])


class ToyExecutor(BlockingExecutor):
    """Repeats prompts."""

    def __init__(self, facts: ModelFacts, delay: float, die_after: int, drift: int) -> None:
        self.facts = facts
        self._drift = drift
        self._delay = delay
        self._die_after = die_after
        self._rows: dict[int, Row] = {}

    def run(self, plan: StepPlan) -> StepResult:
        time.sleep(self._delay)
        if plan.step == self._die_after:
            os._exit(7)
        for row in plan.evictions:
            del self._rows[row]
        for move in plan.moves:
            self._rows[move.dst] = self._rows.pop(move.src)
        for admission in plan.admissions:
            self._admit(admission)
        results = [self._sample(one.row) if one.generates else self._chunk(one) for one in plan.work]
        return StepResult(step=plan.step, rows=[result for result in results if result is not None])

    def _admit(self, admission: Admission) -> None:
        shift = self._drift + (0 if admission.params.greedy else admission.seed)
        row = Row(admission.prompt_ids, admission.params, shift, len(admission.output_ids))
        if (budget := admission.params.thinking) is not None:
            row.thinking = ThinkingState(budget, VOCAB_SIZE, admission.prompt_ids, admission.output_ids)
        self._rows[admission.row] = row

    def _chunk(self, work: Work) -> RowResult | None:
        wanted = self._rows[work.row].params.prompt_logprobs
        result = self._sample(work.row) if work.num_samples else RowResult(row=work.row)
        if wanted is None:
            return result if work.num_samples else None
        report: list[TokenLogprobs | None] = [entry(token, wanted) for token in work.token_ids]
        if work.start == 0:
            report[0] = None
        return msgspec.structs.replace(result, prompt_logprobs=report)

    def _sample(self, number: int) -> RowResult:
        row = self._rows[number]
        if DEADLY in row.prompt_ids:
            os._exit(9)
        if POISON in row.prompt_ids:
            return RowResult(row=number, error="poisoned")
        token = toy_tokens(row.prompt_ids, 1, row.shift + row.made)[0]
        row.made += 1
        if row.thinking is not None:
            token = budgeted(token, row.thinking)
            row.thinking.add(token)
        logprobs = None if row.params.logprobs is None else [entry(token, row.params.logprobs)]
        vector = array("f", [3.0, 4.0, row.prompt_ids[0]])
        embedding = vector[:HIDDEN_SIZE].tobytes() if row.params.pooling else None
        return RowResult(row=number, token_ids=[token], logprobs=logprobs, embedding=embedding)

    def reset(self) -> None:
        super().reset()
        self._rows.clear()

    def trim(self, free_pages: list[int]) -> None: ...

    def check(self) -> None: ...

    def close(self) -> None: ...


def toy_facts(
    vocab_size: int = VOCAB_SIZE, max_model_len: int = MAX_MODEL_LEN, pool_tokens: int = POOL_TOKENS
) -> ModelFacts:
    return ModelFacts(
        model="toy",
        architecture="Toy",
        dtype="int",
        vocab_size=vocab_size,
        max_model_len=max_model_len,
        pool_tokens=pool_tokens,
        page_size=PAGE_SIZE,
        eos_ids=[EOS],
        hidden_size=HIDDEN_SIZE,
    )


def build(options: argparse.Namespace, config: EngineConfig, progress: Callable[[int, int], None]) -> Engine:
    progress(0, 100)
    time.sleep(options.load_delay)
    if options.hang_if is not None and options.hang_if.exists():
        time.sleep(60)
    if options.fail_if is not None and options.fail_if.exists():
        raise ModelError("the model is gone")
    if options.fail is not None:
        raise FAILURES[options.fail]("as asked")
    if options.once is not None:
        options.once.touch(exist_ok=False)
    progress(100, 100)
    if config.trace is not None:
        Path(config.trace).write_text(str(os.getpid()))
    drift = 0
    if options.drift is not None:
        with options.drift.open("a") as file:
            file.write(".")
        drift = options.drift.stat().st_size
    facts = toy_facts(options.vocab_size, config.max_model_len or MAX_MODEL_LEN, options.pool_tokens)
    scheduler = SchedulerConfig(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        page_size=PAGE_SIZE,
        num_pages=options.pool_tokens // PAGE_SIZE + 1,
        max_model_len=facts.max_model_len,
        eos_ids=(EOS,),
        target_itl_ms=0.0,
    )
    facts = msgspec.structs.replace(facts, deterministic=not drift)
    return Engine(ToyExecutor(facts, options.delay, options.die_after, drift), scheduler, time.perf_counter)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--load-delay", type=float, default=0.0)
    parser.add_argument("--vocab-size", type=int, default=VOCAB_SIZE)
    parser.add_argument("--pool-tokens", type=int, default=POOL_TOKENS)
    parser.add_argument("--fail", choices=tuple(FAILURES))
    parser.add_argument("--die-after", type=int, default=-1)
    parser.add_argument("--once", type=Path)
    parser.add_argument("--hang-if", type=Path)
    parser.add_argument("--fail-if", type=Path)
    parser.add_argument("--drift", type=Path)
    parser.add_argument("fd")
    options = parser.parse_args(arguments)

    def factory(config: EngineConfig, progress: Callable[[int, int], None]) -> Any:
        return build(options, config, progress)

    return process.main([options.fd], factory)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
