"""What `LLM` gives back, under vLLM's names, and how it is put together from deltas and texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flover.request import Delta, FinishReason, Request, TokenLogprobs
from flover.text.stream import TextPiece, TextStream
from flover.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Logprob:
    """One alternative at one position. `rank` counts from 1; `decoded_token` is None without a tokenizer."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMetrics:
    """Seconds on the clock of the `LLM` that ran the request; None for what did not happen."""

    arrival_time: float
    first_token_time: float | None = None
    finished_time: float | None = None


@dataclass(slots=True, kw_only=True)
class CompletionOutput:
    """One generated sequence.

    `finish_reason` is "stop", "length", "abort" or "error"; `stop_reason` is the stop string or stop token id that
    matched, None for end of sequence and length. `logprobs` has one dictionary (token id → `Logprob`) per token;
    `cumulative_logprob` sums those of the chosen tokens; both are None when not asked for. `error` says what
    happened when the finish reason is "error".
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    error: str | None = None

    def finished(self) -> bool:
        """Whether the sequence has ended."""
        return self.finish_reason is not None


@dataclass(slots=True, kw_only=True)
class RequestOutput:
    """The answer to one prompt. `prompt` is None if the prompt was given as token ids.

    `prompt_logprobs` has one entry per prompt token, None for the first; it is None when not asked for.
    `num_cached_tokens` counts the prompt tokens that were taken from the prefix cache.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0


class OutputBuilder:
    """Collects the deltas of one request, all of its sequences, into a `RequestOutput`. `streams` are those of its
    sequences."""

    def __init__(
        self,
        request: Request,
        prompt: str | None,
        tokenizer: Tokenizer | None,
        streams: Sequence[TextStream],
        arrival_time: float,
    ) -> None:
        self.request = request
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._streams = streams
        self._errors: dict[int, str] = {}
        self._prompt_logprobs: list[TokenLogprobs | None] | None = None
        self._cached_tokens = 0
        self._arrival_time = arrival_time
        self._first_token_time: float | None = None
        self._finished_time: float | None = None
        self._num_open = request.params.n

    @property
    def finished(self) -> bool:
        """Whether all sequences have ended."""
        return self._num_open == 0

    def note(self, delta: Delta, piece: TextPiece, now: float) -> None:
        """A delta that came at `now`, and what it adds to the text."""
        if delta.prompt_logprobs is not None and self._prompt_logprobs is None:
            self._prompt_logprobs = delta.prompt_logprobs
        if delta.error is not None:
            self._errors[delta.index] = delta.error
        self._cached_tokens = max(self._cached_tokens, delta.cached_tokens)
        if self._first_token_time is None and piece.token_ids:
            self._first_token_time = now
        if piece.finish_reason is not None:
            self._num_open -= 1
            self._finished_time = now if self._num_open == 0 else None

    def output(self) -> RequestOutput:
        """What is there so far."""
        prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        if self._prompt_logprobs is not None:
            entries = self._prompt_logprobs
            prompt_logprobs = [None if entry is None else self._logprob_table(entry) for entry in entries]
        return RequestOutput(
            request_id=self.request.id,
            prompt=self._prompt,
            prompt_token_ids=list(self.request.prompt_ids),
            prompt_logprobs=prompt_logprobs,
            outputs=[self._completion(index, stream) for index, stream in enumerate(self._streams)],
            finished=self.finished,
            metrics=RequestMetrics(
                arrival_time=self._arrival_time,
                first_token_time=self._first_token_time,
                finished_time=self._finished_time,
            ),
            num_cached_tokens=self._cached_tokens,
        )

    def _completion(self, index: int, stream: TextStream) -> CompletionOutput:
        entries = stream.logprobs
        return CompletionOutput(
            index=index,
            text=stream.text,
            token_ids=list(stream.token_ids),
            cumulative_logprob=None if entries is None else sum(entry.logprobs[0] for entry in entries),
            logprobs=None if entries is None else [self._logprob_table(entry) for entry in entries],
            finish_reason=None if stream.finish_reason is None else str(FinishReason(stream.finish_reason)),
            stop_reason=stream.stop_reason,
            error=self._errors.get(index),
        )

    def _logprob_table(self, entry: TokenLogprobs) -> dict[int, Logprob]:
        rows = zip(entry.token_ids, entry.logprobs, entry.ranks, strict=True)
        return {token: Logprob(logprob, rank, self._token_text(token)) for token, logprob, rank in rows}

    def _token_text(self, token: int) -> str | None:
        return None if self._tokenizer is None else self._tokenizer.token_to_str(token)
