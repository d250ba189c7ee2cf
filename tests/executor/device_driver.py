"""Makes plans for a device executor: pages, rows, chunks and moves are drawn at random or set by the test.

`EchoDecoder` is a decoder whose logits are a function of all tokens of a row and their positions, read back from
the pages: a wrong slot, position, page or row gives other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from support.facts import model_facts

from flover.engine.plan import Admission, Grant, Move, StepPlan, StepResult, Work
from flover.executor.device import DeviceExecutor
from flover.memory.kvcache import KVCache
from flover.model.batch import Batch
from flover.ops import HostArray, reference
from flover.request import SamplingParams, TokenLogprobs

VOCAB = 50
EOS = 7
MOST_PROPOSED = 4
_PRIME = 8191


class EchoShape:
    """One layer whose keys hold one number per token."""

    num_layers, num_kv_heads, head_dim = 1, 1, 1


class EchoDecoder:
    """Hidden state [T, 1]: a digest of the tokens at and before a position. `poison` makes its logits NaN."""

    def __init__(self) -> None:
        self.ops = reference.OPS
        self.batches: list[Batch] = []
        self.logit_rows: list[int] = []
        self.poison: int | None = None

    def forward(self, batch: Batch, kv: KVCache) -> HostArray:
        self.batches.append(batch)
        keys = kv.layers[0].keys.reshape(-1)
        keys[batch.slots] = batch.token_ids + 1
        hidden = np.zeros((batch.num_tokens, 1), dtype=np.float32)
        starts = batch.query_starts.tolist()
        for row, context in enumerate(batch.context_lens.tolist()):
            first = context - (starts[row + 1] - starts[row])
            assert batch.positions[starts[row] : starts[row + 1]].tolist() == list(range(first, context))
            pages = batch.page_table[row].astype(np.int64)
            slots = (pages[:, None] * kv.page_size + np.arange(kv.page_size)).flatten()[:context]
            digests = echo_digests((keys[slots] - 1).astype(np.int64).tolist())
            hidden[starts[row] : starts[row + 1], 0] = digests[first:]
        return hidden

    def logits(self, hidden: HostArray) -> HostArray:
        self.logit_rows.append(len(hidden))
        logits = np.concatenate([echo_logits(int(value)) for value in hidden[:, 0]])
        if self.poison is not None:
            logits[hidden[:, 0] == self.poison] = np.nan
        return logits


def echo_digests(token_ids: list[int]) -> list[float]:
    """The hidden state of every position, independently of batches and pages."""
    digests, digest = [], 1
    for token in token_ids:
        digest = (digest * 31 + token * 7 + 3) % _PRIME
        digests.append(float(digest))
    return digests


def echo_logits(digest: int) -> HostArray:
    """[1, VOCAB]"""
    return np.random.default_rng(digest).normal(0, 3, (1, VOCAB)).astype(np.float32)


def echo_executor(num_rows: int = 6, num_pages: int = 80, page_size: int = 4) -> tuple[DeviceExecutor, EchoDecoder]:
    facts = model_facts(
        vocab_size=VOCAB, max_model_len=96, pool_tokens=(num_pages - 1) * page_size, page_size=page_size, eos_ids=[EOS]
    )
    decoder, kv = EchoDecoder(), KVCache(EchoShape(), num_pages, page_size, "float32", reference.page_shapes)
    return DeviceExecutor(decoder, kv, facts, num_rows), decoder


@dataclass(eq=False)
class Story:
    """One sequence as the driver sees it."""

    prompt: list[int]
    params: SamplingParams
    seed: int = 0
    bad: list[list[int]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    error: str | None = None
    computed: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def known(self) -> list[int]:
        return self.prompt + self.outputs

    @property
    def done(self) -> bool:
        return self.error is not None or len(self.outputs) >= (self.params.max_tokens or 0)


def story(prompt: Sequence[int], max_tokens: int, seed: int = 0, bad: Sequence[list[int]] = (), **params: Any) -> Story:
    params.setdefault("temperature", 0)
    return Story(list(prompt), SamplingParams(max_tokens=max_tokens, **params), seed, list(bad))


class Driver:
    """Admits stories to rows and runs plans until they are done."""

    def __init__(self, executor: DeviceExecutor, num_rows: int = 6) -> None:
        self.executor = executor
        facts = executor.facts
        self.page_size = facts.page_size
        self.free = list(range(1, facts.pool_tokens // facts.page_size + 1))
        self.stories: list[Story | None] = [None] * num_rows
        self.step = 0
        self._left: list[int] = []

    def leave(self, row: int) -> Story:
        """Finished or preempted: the row dies, its pages are free."""
        left = self.stories[row]
        assert left is not None
        self.free = left.pages + self.free  # used again at once, so that a late write to them is noticed
        left.pages, left.computed = [], 0
        self.stories[row] = None
        self._left.append(row)
        return left

    def run(
        self,
        admit: Sequence[tuple[int, Story]] = (),
        moves: Sequence[tuple[int, int]] = (),
        chunk_len: int = 10**6,
        window: tuple[int, int] | None = None,
        propose: Callable[[Story], Sequence[int]] = lambda story: (),
    ) -> StepResult:
        """One plan: each generating row with what is proposed for it, and a chunk for each of the others."""
        for src, dst in moves:
            self.stories[dst], self.stories[src] = self.stories[src], None
        grants, work, admissions = [], [], []
        for row, admitted in admit:
            assert self.stories[row] is None
            self.stories[row] = admitted
        for row, told in enumerate(self.stories):
            if told is None:
                continue
            missing = -(-(len(told.known) + MOST_PROPOSED) // self.page_size) - len(told.pages)
            taken, self.free = self.free[: max(0, missing)], self.free[max(0, missing) :]
            told.pages += taken
            if any(told is admitted for _, admitted in admit):
                admissions.append(_admission(row, told))
            elif taken:
                grants.append(Grant(row=row, pages=taken))
            pending = len(told.known) - told.computed
            if pending == 1 and told.outputs:
                proposed = list(propose(told))
                work.append(Work(row, told.computed, proposed, len(proposed) + 1))
            else:
                part = told.known[told.computed :][:chunk_len]
                work.append(Work(row, told.computed, part, int(len(part) == pending)))
        live = [row for row, told in enumerate(self.stories) if told is not None]
        window = window or (0, max(live, default=-1) + 1)
        plan = StepPlan(
            step=self.step,
            evictions=self._left,
            moves=[Move(src, dst) for src, dst in moves],
            admissions=admissions,
            grants=grants,
            work=work,
            window=window,
            dead=[row for row in range(*window) if row not in live],
        )
        self._left = []
        self.step += 1
        self.executor.start(plan)
        result = self.executor.finish()
        assert result.step == plan.step
        self._take(plan, result)
        return result

    def _take(self, plan: StepPlan, result: StepResult) -> None:
        found = {item.row: len(item.token_ids) for item in result.rows}
        for one in plan.work:
            told = self.stories[one.row]
            assert told is not None
            told.computed += one.num_tokens - one.num_samples + found.get(one.row, 0)
        for item in result.rows:
            told = self.stories[item.row]
            assert told is not None
            told.prompt_logprobs += item.prompt_logprobs or []
            told.logprobs += item.logprobs or []
            told.error = item.error
            told.outputs += item.token_ids


def _admission(row: int, told: Story) -> Admission:
    return Admission(
        row=row,
        sequence=0,
        prompt_ids=told.prompt,
        output_ids=list(told.outputs),
        params=told.params,
        seed=told.seed,
        bad_words_ids=told.bad,
        computed=told.computed,
        pages=list(told.pages),
    )


def tell_alone(driver: Driver, told: Story) -> Story:
    """Run one story by itself, its prompt in one piece."""
    driver.run(admit=[(0, told)])
    while not told.done:
        driver.run()
    driver.leave(0)
    return told


def tell_in_a_crowd(driver: Driver, stories: Sequence[Story], rng: Random, *, reorder: bool, preempt: float) -> None:
    """Run all of them together: random arrivals, chunks, leavers, holes closed by moves or kept, preemptions."""
    waiting, total_rows = list(stories), len(driver.stories)
    for _ in range(2000):
        for row, told in enumerate(driver.stories):
            if told is not None and (told.done or rng.random() < preempt):
                left = driver.leave(row)
                if not left.done:
                    left.prompt_logprobs = [] if not left.outputs else left.prompt_logprobs
                    waiting.insert(0, left)
        live = [row for row, told in enumerate(driver.stories) if told is not None]
        if not live and not waiting:
            return
        room = total_rows - len(live)
        entering = min(rng.randint(0, 2) if live else 1, room, len(waiting))
        moves: list[tuple[int, int]] = []
        if reorder:
            size = len(live) + entering
            holes = [row for row in range(size) if row not in live]
            moves = list(zip([row for row in live if row >= size], holes[entering:], strict=True))
            rows = holes[:entering]
        else:
            rows = rng.sample([row for row in range(total_rows) if row not in live], entering)
        admit = [(row, waiting.pop(0)) for row in rows]
        driver.run(admit=admit, moves=moves, chunk_len=rng.choice([1, 2, 3, 5, 8, 100]))
    raise AssertionError("the stories do not end")
