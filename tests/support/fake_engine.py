"""An engine that repeats the prompt, for tests of what is above the engine. Ids are bytes; 256 ends a sequence."""

from __future__ import annotations

from dataclasses import dataclass, field

from flover.engine.stats import EngineStats
from flover.request import Delta, FinishReason, ModelFacts, Request, TokenLogprobs
from support.facts import model_facts

EOS = 256
FACTS = model_facts(eos_ids=[EOS])


@dataclass
class FakeSequence:
    request: Request
    index: int
    made: int = 0


@dataclass
class FakeEngine:
    """Every step brings one token for every sequence. `fail_at` raises in that step."""

    fail_at: dict[int, BaseException] = field(default_factory=dict)
    error_for: str = ""
    running: list[FakeSequence] = field(default_factory=list)
    cancelled: list[tuple[str, int | None]] = field(default_factory=list)
    submitted: list[Request] = field(default_factory=list)
    num_steps: int = 0
    num_closed: int = 0
    facts: ModelFacts = FACTS

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def submit(self, request: Request) -> None:
        self.submitted.append(request)
        self.running += [FakeSequence(request, index) for index in range(request.params.n)]

    def cancel(self, request_id: str, index: int | None = None) -> None:
        self.cancelled.append((request_id, index))
        self.running = [
            sequence
            for sequence in self.running
            if sequence.request.id != request_id or index not in (None, sequence.index)
        ]

    def step(self) -> list[Delta]:
        self.num_steps += 1
        if self.num_steps in self.fail_at:
            raise self.fail_at[self.num_steps]
        deltas = [self._advance(sequence) for sequence in reversed(self.running)]
        ended = {(delta.request_id, delta.index) for delta in deltas if delta.finish_reason is not None}
        self.running = [one for one in self.running if (one.request.id, one.index) not in ended]
        return deltas

    def _advance(self, sequence: FakeSequence) -> Delta:
        request = sequence.request
        if request.id == self.error_for:
            return Delta(
                request_id=request.id, index=sequence.index, finish_reason=FinishReason.ERROR, error="numbers are bad"
            )
        token = request.prompt_ids[(sequence.made + sequence.index) % len(request.prompt_ids)]
        sequence.made += 1
        reason = FinishReason.LENGTH if sequence.made == request.params.max_tokens else None
        if token == EOS and not request.params.ignore_eos:
            reason = FinishReason.STOP
        entry = TokenLogprobs([token, token, 7], [-0.25, -0.25, -1.5], [1, 1, 2])
        first = sequence.made == 1
        wants_prompt = first and request.params.prompt_logprobs is not None
        return Delta(
            request_id=request.id,
            index=sequence.index,
            token_ids=[token],
            logprobs=None if request.params.logprobs is None else [entry],
            prompt_logprobs=[None] + [entry] * (len(request.prompt_ids) - 1) if wants_prompt else None,
            finish_reason=reason,
            cached_tokens=16 if request.salt else 0,
        )

    def stats(self) -> EngineStats:
        return EngineStats(step=self.num_steps)

    def reset_prefix_cache(self) -> None:
        self.num_steps += 1000

    def close(self) -> None:
        self.num_closed += 1
