"""`POST /v1/completions`: text in, its continuation out."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from msgspec import UNSET
from starlette.responses import Response
from starlette.types import Receive

from flover.request import FinishReason, TokenLogprobs
from flover.server.answer import answer
from flover.server.door import Door
from flover.server.generation import Choice, Generation
from flover.server.params import completion_params, scores_prompt_only
from flover.server.protocol import CompletionBody, StreamOptions
from flover.server.responses import Completion, CompletionChoice, CompletionLogprobs
from flover.server.shaping import completion_logprobs, prompt_logprobs, usage_of
from flover.text.stream import TextPiece


async def create_completion(door: Door, body: CompletionBody, receive: Receive) -> Response:
    """Answer one request, as a stream or whole."""
    model = door.check_model(body.model)
    door.ready_engine()
    params = completion_params(body, door.sampling_defaults, detokenize=door.tokenizer is not None)
    name = f"cmpl-{body.request_id or uuid.uuid4().hex}"
    reply = Reply(door, body, id=name, created=int(time.time()), model=model)

    async def generate() -> Generation:
        return await door.generate(
            body,
            params,
            len(body.prompt),
            lambda: body.prompt,
            name=f"cmpl-{uuid.uuid4().hex}",
            add_special_tokens=body.add_special_tokens is not False,
        )

    return await answer(reply, generate, stream=bool(body.stream), receive=receive)


@dataclass(slots=True, kw_only=True)
class Part:
    """What one choice of an answer or of a chunk is made from."""

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs] | None
    offset: int
    """Characters of the choice that came before."""
    finish_reason: FinishReason | None
    stop_reason: int | str | None


class Reply:
    """Turns the pieces of one generation into the API's objects."""

    def __init__(self, door: Door, body: CompletionBody, *, id: str, created: int, model: str) -> None:
        self._tokenizer = door.tokenizer
        self._body = body
        self._id = id
        self._created = created
        self._model = model
        self._scores_only = scores_prompt_only(body)

    def whole(self, generation: Generation) -> Completion:
        """The complete answer."""
        choices = [self._whole_choice(generation, choice) for choice in generation.choices]
        return self._completion(choices, generation, with_usage=True)

    def _whole_choice(self, generation: Generation, choice: Choice) -> CompletionChoice:
        stream = choice.text
        part = Part(
            text=stream.text,
            token_ids=stream.token_ids,
            logprobs=stream.logprobs,
            offset=0,
            finish_reason=stream.finish_reason,
            stop_reason=stream.stop_reason,
        )
        shaped = self._choice(generation, choice, part, first=True)
        reported = generation.prompt_of(choice).logprobs
        if self._body.prompt_logprobs is not None and reported is not None:
            shaped.prompt_logprobs = prompt_logprobs(reported, self._tokenizer)
        return shaped

    async def chunks(self, generation: Generation) -> AsyncIterator[Completion]:
        """The answer as it comes."""
        options = self._body.stream_options or StreamOptions()
        offsets = [0] * len(generation.choices)
        async for choice, piece in generation.pieces():
            first = not choice.started
            if not (first or self._is_news(piece)):
                continue
            part = Part(
                text=piece.text,
                token_ids=piece.token_ids,
                logprobs=piece.logprobs,
                offset=offsets[choice.index],
                finish_reason=piece.finish_reason,
                stop_reason=piece.stop_reason,
            )
            shaped = self._choice(generation, choice, part, first=first)
            if shaped.logprobs is not None and shaped.logprobs.tokens:
                offsets[choice.index] = shaped.logprobs.text_offset[-1] + len(shaped.logprobs.tokens[-1])
            chunk = self._completion([shaped], generation, with_usage=bool(options.continuous_usage_stats))
            if options.include_usage and chunk.usage is UNSET:
                chunk.usage = None
            yield chunk
        if options.include_usage:
            yield self._completion([], generation, with_usage=True)

    def _is_news(self, piece: TextPiece) -> bool:
        shown_ids = piece.token_ids and (self._body.return_token_ids or self._tokenizer is None)
        return bool(piece.text or piece.logprobs or piece.finish_reason or shown_ids)

    def _choice(self, generation: Generation, choice: Choice, part: Part, *, first: bool) -> CompletionChoice:
        if self._scores_only:
            part.text, part.token_ids = "", []
            part.logprobs = None if part.logprobs is None else []
            part.finish_reason, part.stop_reason = part.finish_reason and FinishReason.LENGTH, None
        prompt_ids = choice.request.prompt_ids
        echo = bool(self._body.echo) and first
        shaped = CompletionChoice(
            index=choice.index,
            text=(self._prompt_text(choice) if echo else "") + part.text,
            logprobs=self._logprobs(generation, choice, part, echo=echo),
            finish_reason=part.finish_reason,
            stop_reason=part.stop_reason,
        )
        if self._body.return_token_ids:
            shaped.token_ids = list(part.token_ids)
            if first:
                shaped.prompt_token_ids = prompt_ids
        return shaped

    def _logprobs(self, generation: Generation, choice: Choice, part: Part, *, echo: bool) -> CompletionLogprobs | None:
        if part.logprobs is None:
            return None
        token_ids, entries = list(part.token_ids), list[TokenLogprobs | None](part.logprobs)
        reported = generation.prompt_of(choice).logprobs
        if echo and reported is not None:
            token_ids, entries = choice.request.prompt_ids + token_ids, [*reported, *entries]
        return completion_logprobs(token_ids, entries, self._tokenizer, part.offset)

    def _prompt_text(self, choice: Choice) -> str:
        if self._tokenizer is None:
            return ""
        return self._tokenizer.decode(choice.request.prompt_ids, self._body.skip_special_tokens is not False)

    def _completion(self, choices: list[CompletionChoice], generation: Generation, *, with_usage: bool) -> Completion:
        usage = usage_of(generation, scores_only=self._scores_only) if with_usage else UNSET
        return Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
