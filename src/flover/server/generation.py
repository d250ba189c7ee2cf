"""The generation of one HTTP request: its engine requests, the texts of their sequences, its metrics.

Choices are numbered as in OpenAI's API: prompt number times n plus sequence number.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flover.errors import EngineError, FloverError, RequestAbortedError
from flover.request import Delta, FinishReason, Request, TokenLogprobs
from flover.server.metrics import Metrics
from flover.service.supervisor import Supervisor
from flover.text.stream import TextPiece, TextStart, TextStream
from flover.text.streams import TextStreams
from flover.text.tokenizer import Tokenizer


@dataclass(slots=True)
class Choice:
    """One sequence of the response."""

    index: int
    request: Request
    text: TextStream
    started: bool = False
    """Whether its first piece has been returned."""
    first_token: float = 0.0
    last_token: float = 0.0


@dataclass
class Prompt:
    """The state of one prompt, as reported by the engine."""

    request: Request
    texts: Sequence[str]
    """The text that each prompt token adds, if the response repeats the prompt."""
    logprobs: Sequence[TokenLogprobs | None] | None = None
    cached_tokens: int = 0
    embedding: bytes | None = None
    choices: list[Choice] = field(default_factory=list)

    @cached_property
    def text(self) -> str:
        """All of its text, where the answer repeats it."""
        return "".join(self.texts)


class Generation:
    """Submits its requests on construction. `pieces` must be read by one reader; `close` must be called at the end."""

    def __init__(
        self,
        supervisor: Supervisor,
        tokenizer: Tokenizer | None,
        metrics: Metrics,
        requests: Sequence[tuple[Request, TextStart]],
        arrival: float,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompts = [Prompt(request, start.prompt_texts) for request, start in requests]
        self.choices: list[Choice] = []
        self._texts = TextStreams(tokenizer, supervisor.cancel)
        for prompt, (request, start) in zip(self.prompts, requests, strict=True):
            for stream in self._texts.add(request, start):
                choice = Choice(len(self.choices), request, stream)
                prompt.choices.append(choice)
                self.choices.append(choice)
        self.on_close: Callable[[], None] = lambda: None
        self.on_end: Callable[[int, float], None] = lambda tokens, seconds: None
        """Called for each sequence that has ended: with its tokens, and the seconds since the first of them."""
        self._metrics = metrics
        self.arrival = arrival
        self._by_id = {prompt.request.id: prompt for prompt in self.prompts}
        self._closed = False
        self.time_to_first_token: float | None = None
        """Seconds from the arrival to the first token of any sequence."""
        self._reason_of_unfinished = FinishReason.ABORT
        vocabulary = None
        if tokenizer is not None and requests[0][0].params.structured_outputs is not None:
            vocabulary = tokenizer.vocabulary
        self.submitted = time.monotonic()
        self._stream = supervisor.submit(*(request for request, _ in requests), vocabulary=vocabulary)

    def prompt_of(self, choice: Choice) -> Prompt:
        """The prompt of this choice."""
        return self._by_id[choice.request.id]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(prompt.request.prompt_ids) for prompt in self.prompts)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache."""
        return sum(prompt.cached_tokens for prompt in self.prompts)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, for all choices."""
        return sum(len(choice.text.token_ids) for choice in self.choices)

    @property
    def finish_reasons(self) -> list[FinishReason]:
        """The finish reason of every choice; of an open one the reason if it is closed now."""
        return [choice.text.finish_reason or self._reason_of_unfinished for choice in self.choices]

    async def pieces(self) -> AsyncIterator[tuple[Choice, TextPiece]]:
        """The pieces of all choices as they arrive, until all have ended.

        A choice that ends with a stop string is cancelled in the engine. Raises `EngineError` if one of them failed
        in the engine: then the whole HTTP request fails.
        """
        async for delta in self._stream:
            prompt = self._by_id[delta.request_id]
            choice = prompt.choices[delta.index]
            if choice.text.finished:
                continue  # computed before the engine had read the cancellation
            self._check(delta)
            self._note(prompt, choice, delta)
            piece = self._texts.feed(choice.text, delta)
            if piece.finish_reason is not None:
                self._note_end(choice, piece.finish_reason)
            yield choice, piece
            choice.started = True
            if piece.finish_reason is not None and not self._texts:
                return

    async def finish(self) -> None:
        """Wait until all choices have ended; they hold the result. Raises as `pieces` does."""
        async for _ in self.pieces():
            pass

    def abort(self, error: FloverError) -> None:
        """End the generation with an error that its reader gets."""
        self._stream.abort(error)

    def close(self) -> None:
        """Cancel running sequences in the engine and update the metrics. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._stream.close()
        for choice in self.choices:
            if not choice.text.finished:
                self._metrics.finished(self._reason_of_unfinished)
        self.on_close()

    def _check(self, delta: Delta) -> None:
        """The server cancels sequences only after their text has ended: any other abort is the engine going down."""
        if delta.finish_reason is FinishReason.ERROR:
            self._reason_of_unfinished = FinishReason.ERROR
            raise EngineError(delta.error or "the engine failed on this request")
        if delta.finish_reason is FinishReason.ABORT:
            raise RequestAbortedError("the request was aborted")

    def _note(self, prompt: Prompt, choice: Choice, delta: Delta) -> None:
        now = time.monotonic()
        if delta.prompt_logprobs is not None:
            prompt.logprobs = delta.prompt_logprobs
        prompt.cached_tokens = max(prompt.cached_tokens, delta.cached_tokens)
        if delta.embedding is not None:
            prompt.embedding = delta.embedding
        if not delta.token_ids:
            return
        if choice.last_token == 0.0:
            choice.first_token = now
            self._metrics.time_to_first_token.observe(now - self.arrival)
            if self.time_to_first_token is None:
                self.time_to_first_token = now - self.arrival
        else:
            gap = (now - choice.last_token) / len(delta.token_ids)
            for _ in delta.token_ids:
                self._metrics.inter_token_latency.observe(gap)
        choice.last_token = now

    def _note_end(self, choice: Choice, reason: FinishReason) -> None:
        metrics = self._metrics
        metrics.finished(reason)
        metrics.generation_tokens.observe(len(choice.text.token_ids))
        self.on_end(len(choice.text.token_ids), choice.last_token - choice.first_token)
        request = choice.request
        if all(other.text.finished for other in self._by_id[request.id].choices):
            metrics.e2e_latency.observe(time.monotonic() - self.arrival)
            metrics.prompt_tokens.observe(len(request.prompt_ids))
            metrics.params_n.observe(request.params.n)
            metrics.params_max_tokens.observe(request.params.max_tokens or 0)
