"""`POST /v1/completions`: text in, its continuation out."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec import UNSET
from starlette.responses import Response
from starlette.types import Receive

from flover.request import FinishReason, TokenLogprobs
from flover.server.answer import ResponseBuilder, answer
from flover.server.app_state import AppState
from flover.server.generation import Choice, Generation
from flover.server.held_tokens import HeldTokens
from flover.server.params import completion_params, own_names, scores_prompt_only
from flover.server.protocol import CompletionBody, StreamOptions
from flover.server.responses import Completion, CompletionChoice, CompletionLogprobs
from flover.server.shaping import completion_logprobs, prompt_logprobs, token_text, usage_of
from flover.server.text_threads import TextThreads
from flover.text.stream import TextPiece
from flover.text.tokenizer import Tokenizer


async def create_completion(state: AppState, body: CompletionBody, receive: Receive, key_salt: str) -> Response:
    """Respond to one request, as a stream or whole."""
    model = state.check_model(body.model)
    state.ready_supervisor()
    name = f"cmpl-{body.request_id or uuid.uuid4().hex}"
    builder = CompletionBuilder(body, state.threads, id=name, model=model, tokenizer=state.tokenizer)

    async def generate() -> Generation:
        with own_names(body):
            return await state.generate(
                body,
                completion_params(
                    body, state.sampling_defaults, detokenize=state.tokenizer is not None, strict=state.config.strict
                ),
                len(body.prompt),
                lambda: body.prompt,
                name=f"cmpl-{uuid.uuid4().hex}",
                add_special_tokens=body.add_special_tokens is not False,
                key_salt=key_salt,
                num_chars=sum(len(prompt) for prompt in body.prompt if isinstance(prompt, str)),
            )

    return await answer(builder, generate, state.threads, stream=bool(body.stream), receive=receive)


@dataclass(slots=True, kw_only=True)
class ChoicePart:
    """What one choice of an answer or of an event is made from."""

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[TokenLogprobs] | None
    token_texts: Sequence[str]
    """With log-probabilities: what each token adds to the text."""
    offset: int
    """Characters of the choice that came before."""
    length: int | None
    """Characters of all of the choice; None before its end."""
    finish_reason: FinishReason | None
    stop_reason: int | str | None


class CompletionBuilder(ResponseBuilder[CompletionBody, CompletionChoice]):
    """Builds the objects of `/v1/completions`."""

    def __init__(
        self, body: CompletionBody, threads: TextThreads, *, id: str, model: str, tokenizer: Tokenizer | None
    ) -> None:
        super().__init__(body, id=id, model=model, tokenizer=tokenizer)
        self._scores_only = scores_prompt_only(body)
        self._threads = threads

    def whole(self, generation: Generation, choices: list[CompletionChoice]) -> Completion:
        """The complete answer."""
        return self._completion(choices, generation, with_usage=True)

    def choice(self, generation: Generation, choice: Choice) -> CompletionChoice:
        """One complete sequence."""
        stream = choice.text
        part = ChoicePart(
            text=stream.text,
            token_ids=stream.token_ids,
            logprobs=stream.logprobs,
            token_texts=stream.token_texts,
            offset=0,
            length=len(stream.text),
            finish_reason=stream.finish_reason,
            stop_reason=stream.stop_reason,
        )
        shaped = self._choice(generation, choice, part, first=True)
        shaped.prompt_logprobs = None
        if not self._body.return_token_ids:
            shaped.token_ids = shaped.prompt_token_ids = None
        reported = generation.prompt_of(choice).logprobs
        if self._body.prompt_logprobs is not None and reported is not None:
            shaped.prompt_logprobs = prompt_logprobs(reported, self._tokenizer)
        return shaped

    async def events(self, generation: Generation) -> AsyncIterator[Completion]:
        """The answer as it comes."""
        options = self._body.stream_options or StreamOptions()
        offsets = [0] * len(generation.choices)
        held = [HeldTokens() for _ in generation.choices]
        async for choice, piece in generation.pieces():
            first = not choice.started
            if self._body.stop:
                piece = held[choice.index].feed(piece)
            if not (first or self._shows(piece)):
                continue
            part = ChoicePart(
                text=piece.text,
                token_ids=piece.token_ids,
                logprobs=piece.logprobs,
                token_texts=piece.token_texts,
                offset=offsets[choice.index],
                length=None if piece.finish_reason is None else len(choice.text.text),
                finish_reason=piece.finish_reason,
                stop_reason=piece.stop_reason,
            )
            shape = partial(self._choice, generation, choice, part, first=first)
            echoes_logprobs = first and generation.prompt_of(choice).logprobs is not None
            shaped = await self._threads.run(shape) if echoes_logprobs else shape()
            if shaped.logprobs is not None and shaped.logprobs.tokens:
                offsets[choice.index] = shaped.logprobs.text_offset[-1] + len(shaped.logprobs.tokens[-1])
            event = self._completion([shaped], generation, with_usage=options.usage_in_chunks)
            if options.include_usage and event.usage is UNSET:
                event.usage = None
            yield event
        if options.include_usage:
            yield self._completion([], generation, with_usage=True)

    def _shows(self, piece: TextPiece) -> bool:
        shown_ids = piece.token_ids and (self._body.return_token_ids or self._tokenizer is None)
        return bool(piece.text or piece.logprobs or piece.finish_reason or shown_ids)

    def _choice(self, generation: Generation, choice: Choice, part: ChoicePart, *, first: bool) -> CompletionChoice:
        if self._scores_only:
            part.text, part.token_ids, part.token_texts = "", [], []
            part.logprobs = None if part.logprobs is None else []
            part.finish_reason, part.stop_reason = part.finish_reason and FinishReason.LENGTH, None
        prompt_ids = choice.request.prompt_ids
        echo = bool(self._body.echo) and first
        shaped = CompletionChoice(
            index=choice.index,
            text=(generation.prompt_of(choice).text if echo else "") + part.text,
            logprobs=self._logprobs(generation, choice, part, echo=echo),
            finish_reason=part.finish_reason,
            stop_reason=part.stop_reason,
        )
        if self._body.return_token_ids:
            shaped.token_ids = list(part.token_ids)
            if first:
                shaped.prompt_token_ids = prompt_ids
        return shaped

    def _logprobs(
        self, generation: Generation, choice: Choice, part: ChoicePart, *, echo: bool
    ) -> CompletionLogprobs | None:
        if part.logprobs is None:
            return None
        prompt, ids = generation.prompt_of(choice), part.token_ids
        texts, entries, start, end = part.token_texts, list[TokenLogprobs | None](part.logprobs), part.offset, None
        if echo and prompt.logprobs is not None:
            ids, texts, entries = (
                [*choice.request.prompt_ids, *ids],
                [*prompt.texts, *texts],
                [*prompt.logprobs, *entries],
            )
        elif echo:
            start += len(prompt.text)
        if part.length is not None:
            end = part.length + len(prompt.text)
        if self._tokenizer is None:
            texts, end = [token_text(None, token_id) for token_id in ids], None
        return completion_logprobs(texts, entries, self._tokenizer, start, end)

    def _completion(self, choices: list[CompletionChoice], generation: Generation, *, with_usage: bool) -> Completion:
        usage = usage_of(generation, scores_only=self._scores_only) if with_usage else UNSET
        return Completion(id=self._id, created=self._created, model=self._model, choices=choices, usage=usage)
