"""What one seed stands for: a machine, a load, and what goes wrong. Everything is drawn from the seed alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random

import msgspec

from flover.config.speculative import Speculation
from flover.engine.roster import SchedulerConfig
from flover.request import ModelFacts, Request, SamplingParams

SEED_STRIDE = 64
"""Requests' seeds lie so far apart that each sequence of a run has a seed of its own."""
FLAVOURS = ("calm", "cancels", "starved", "thrash", "faults", "poison", "all")
"""What a run is about; a seed's flavour is its remainder."""


@dataclass(frozen=True, slots=True)
class CancelPlan:
    """When a request is cancelled: at an event of its life, all of it (index None) or one sequence."""

    event: str
    """submit | steps | tokens | running | ended"""
    count: int
    """Steps since its arrival, or tokens since its start."""
    index: int | None


CANCEL_EVENTS = ("submit", "steps", "tokens", "running", "ended")


@dataclass(slots=True)
class Scenario:
    """One seed, spelled out."""

    seed: int
    flavour: str
    config: SchedulerConfig
    facts: ModelFacts
    rng: Random
    cancel_p: float
    fault_p: float
    poison_p: float
    step_ms: tuple[float, float, float]
    """Duration of an iteration: constant, per token, per 1,000 tokens of context."""
    most_open: int
    longest_prompt: int
    most_tokens: int
    shared_p: float
    prefixes: list[list[int]] = field(default_factory=list)
    salts: tuple[str, ...] = ("",)
    mean_gap_s: float = 0.0
    backfill: Random | None = None
    """Draws which requests are backfill; None if none are."""
    light: Random | None = None
    """Draws when a client sends a request that sends few, beside one that sends many; None if there are none."""
    count: int = 0

    def next_request(self, client: str = "heavy") -> Request:
        """Draw the next arrival. It may be one that must be refused. `client`: whose, if one sends few, small ones."""
        rng, number = self.rng, self.count
        self.count += 1
        prompt = self._prompt()
        params = self._params(len(prompt))
        priority = rng.choice((0, 0, 0, -1, 1, 5))
        if self.flavour == "thrash" and rng.random() < 0.2:
            # A long one that is last in the order of service: whenever the pool is empty, it is preempted.
            room = min(self.facts.max_model_len, self.facts.pool_tokens) - len(prompt)
            params, priority = params.replace(max_tokens=max(1, room), min_tokens=0, n=1), 9
        name = f"r{number}" if rng.random() < 0.5 else f"reused{number % (3 * self.most_open + 3)}"
        salt = rng.choice(self.salts)
        backfill = self.backfill is not None and self.backfill.random() < 0.4
        client = client if self.light is not None else salt
        if client == "light":
            prompt, params = prompt[:4], params.replace(n=1, max_tokens=min(params.max_tokens or 1, 4), min_tokens=0)
        return Request(
            id=name,
            prompt_ids=prompt,
            params=params,
            seed=number * SEED_STRIDE,
            priority=priority,
            salt=salt,
            client=f"{client} backfill" if backfill else client,
            backfill=backfill,
        )

    def next_cancel(self, request: Request) -> CancelPlan | None:
        """Whether and when this request is cancelled."""
        if self.rng.random() >= self.cancel_p:
            return None
        n = request.params.n
        index = None if self.rng.random() < 0.6 else self.rng.randrange(n)
        return CancelPlan(self.rng.choice(CANCEL_EVENTS), self.rng.randrange(1, 12), index)

    def _prompt(self) -> list[int]:
        rng, vocab = self.rng, self.facts.vocab_size
        length = _log_uniform(rng, 1, self.longest_prompt)
        if rng.random() < 0.01:
            length = self.facts.max_model_len + rng.randrange(3)  # must be refused
        prompt: list[int] = []
        if rng.random() < self.shared_p:
            prefix = rng.choice(self.prefixes)
            cut = len(prefix) if rng.random() < 0.5 else rng.randrange(len(prefix) + 1)
            prompt = prefix[: min(cut, length)]
        return prompt + [rng.randrange(vocab) for _ in range(length - len(prompt))]

    def _params(self, prompt_len: int) -> SamplingParams:
        rng = self.rng
        room = max(1, min(self.facts.max_model_len, self.facts.pool_tokens) - prompt_len)
        max_tokens = min(_log_uniform(rng, 1, self.most_tokens), room)
        if self.flavour == "starved" and rng.random() < 0.5:
            max_tokens = max(1, room + rng.choice((-1, 0, 1)))  # need-1, need, need+1 of the pool
        stops = [rng.randrange(self.facts.vocab_size) for _ in range(rng.choice((0, 0, 1, 4)))]
        return SamplingParams(
            n=rng.choice((1, 1, 1, 1, 2, 3, 4)),
            temperature=rng.choice((0.5, 1.0)),
            top_p=rng.choice((0.9, 1.0)),
            max_tokens=max_tokens,
            min_tokens=rng.choice((0, 0, 0, max_tokens // 2, max_tokens)),
            ignore_eos=rng.random() < 0.3,
            stop_token_ids=[token for token in stops if token not in self.facts.eos_ids] or None,
            logprobs=rng.choice((None,) * 10 + (0, 2)),
            prompt_logprobs=rng.choice((None,) * 20 + (0, 2)),
        )


def draw_scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    rng = Random(f"flover simulation {seed}")
    flavour = FLAVOURS[seed % len(FLAVOURS)]
    thrash = flavour == "thrash"
    light = not thrash and seed // len(FLAVOURS) % 3 == 1
    rows = _log_uniform(rng, 3, 12) if thrash or light else _log_uniform(rng, 1, 64)
    facts = _draw_facts(rng, flavour, rows)
    speculation = _draw_speculation(seed)
    if speculation is not None:
        facts = msgspec.structs.replace(facts, vocab_size=8, eos_ids=[5] if facts.eos_ids else [])
    step_ms = (rng.uniform(0.5, 20), rng.uniform(0.001, 1), rng.uniform(0, 2))
    config = _draw_config(rng, facts, rows, step_ms[0], seed // len(FLAVOURS) % 2 == 0)
    if speculation is not None:
        config = replace(config, speculation=speculation, eos_ids=tuple(facts.eos_ids))
    config = replace(config, num_slots=_draw_slots(seed, config))
    scenario = Scenario(
        seed=seed,
        flavour=flavour,
        config=replace(config, policy="priority") if thrash else config,
        facts=facts,
        rng=rng,
        cancel_p=0.4 if flavour in ("cancels", "all") else 0.0,
        fault_p=0.02 if flavour in ("faults", "all") else 0.0,
        poison_p=0.05 if flavour in ("poison", "all") else 0.0,
        step_ms=step_ms,
        most_open=rows + _log_uniform(rng, 1, 32),
        longest_prompt=4 if thrash else max(1, facts.max_model_len - 2),
        most_tokens=20 if thrash else _log_uniform(rng, 60 if light else 4, 120),
        shared_p=rng.choice((0.0, 0.3, 0.6, 0.9)),
        salts=rng.choice((("",), ("", "tenant"))),
    )
    if light:
        scenario.light, scenario.config = Random(f"light {seed}"), replace(config, policy="fcfs", reorder=True)
    scenario.backfill = Random(f"backfill {seed}") if seed // len(FLAVOURS) % 3 == 2 else None
    for _ in range(rng.randrange(1, 5)):
        length = _log_uniform(rng, 1, scenario.longest_prompt)
        scenario.prefixes.append([rng.randrange(facts.vocab_size) for _ in range(length)])
    tokens_per_step = rows / (1 + scenario.most_tokens / 3)
    step_s = (step_ms[0] + step_ms[1] * rows) / 1e3
    scenario.mean_gap_s = step_s / tokens_per_step / rng.choice((0.3, 1.0, 3.0))
    return scenario


def _draw_speculation(seed: int) -> Speculation | None:
    """For a quarter of the seeds, never together with asynchronous scheduling. Their vocabulary is so small that
    proposals are right now and then."""
    if seed // len(FLAVOURS) % 4 != 1:
        return None
    rng = Random(f"speculation {seed}")
    least = rng.choice((1, 1, 2))
    found = Speculation(num_tokens=rng.randint(1, 6), lookup_min=least, lookup_max=least + rng.randrange(3))
    return msgspec.structs.replace(found, model="hash") if rng.random() < 0.5 else found


def _draw_slots(seed: int, config: SchedulerConfig) -> int:
    """Pages of the host tier, for half of the seeds: fewer than the pool has, or some more."""
    rng = Random(f"offload {seed}")
    drafts = config.speculation is not None and config.speculation.model is not None
    if drafts or not config.enable_prefix_caching or rng.random() < 0.5:
        return 0
    return _log_uniform(rng, 1, 2 * config.num_pages)


def _draw_facts(rng: Random, flavour: str, rows: int) -> ModelFacts:
    """A model and a pool: around what one longest sequence needs, or what all rows need, or more."""
    thrash = flavour == "thrash"
    page_size = _log_uniform(rng, 1, 4 if thrash else 32)
    max_model_len = _log_uniform(rng, 30, 100) if thrash else _log_uniform(rng, 8, 400)
    one = -(-max_model_len // page_size)
    if flavour == "starved":
        pages = max(1, one + rng.choice((-1, 0, 1)))
    elif thrash:
        pages = one + rng.randrange(one)
    else:
        pages = max(4, min(4095, _log_uniform(rng, one, 2 * rows * one)))
    vocab_size = rng.choice((60, 1000, 50000))
    num_eos = 0 if thrash else max(1, min(20, vocab_size // rng.choice((30, 100, 1000))))
    return ModelFacts(
        model="hash",
        architecture="HashModel",
        dtype="uint64",
        vocab_size=vocab_size,
        max_model_len=max_model_len,
        pool_tokens=pages * page_size,
        page_size=page_size,
        eos_ids=sorted(rng.sample(range(vocab_size), num_eos)),
    )


def _draw_config(rng: Random, facts: ModelFacts, rows: int, step_ms: float, overlaps: bool) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=rows,
        max_num_batched_tokens=max(rows, rows - 1 + _log_uniform(rng, 1, 512)),
        page_size=facts.page_size,
        num_pages=facts.pool_tokens // facts.page_size + 1,
        max_model_len=facts.max_model_len,
        eos_ids=tuple(facts.eos_ids),
        enable_prefix_caching=rng.random() < 0.75,
        policy=rng.choice(("fcfs", "priority")),
        reorder=rng.random() < 0.75,
        target_itl_ms=rng.choice((0.0, step_ms * rng.uniform(0.5, 4))),
        async_scheduling=overlaps,
    )


def _log_uniform(rng: Random, low: int, high: int) -> int:
    """Between low and high, small values as likely as large ones."""
    return round(math.exp(rng.uniform(math.log(low), math.log(max(low, high)))))
