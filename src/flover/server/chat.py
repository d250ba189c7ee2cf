"""`POST /v1/chat/completions`: a conversation in, the assistant's next message out."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive

from flover.request import TokenLogprobs
from flover.server.answer import ResponseBuilder, answer
from flover.server.app_state import AppState
from flover.server.generation import Choice, Generation
from flover.server.params import chat_params, own_names
from flover.server.protocol import ChatBody, StreamOptions, TokenizeBody
from flover.server.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
)
from flover.server.shaping import chat_logprobs, prompt_logprobs, usage_of
from flover.text.chat import ChatTemplate
from flover.text.stream import TextPiece


async def create_chat_completion(state: AppState, body: ChatBody, receive: Receive, key_salt: str) -> Response:
    """Respond to one request, as a stream or whole."""
    model = state.check_model(body.model)
    state.ready_supervisor()
    template = state.need_template()
    name = f"chatcmpl-{body.request_id or uuid.uuid4().hex}"
    builder = ChatBuilder(body, id=name, model=model, tokenizer=state.tokenizer)

    async def generate() -> Generation:
        with own_names(body):
            return await state.generate(
                body,
                chat_params(body, state.sampling_defaults, strict=state.config.strict),
                1,
                lambda: [render(template, body)],
                name=f"chatcmpl-{uuid.uuid4().hex}",
                add_special_tokens=bool(body.add_special_tokens),
                key_salt=key_salt,
                num_chars=sum(message.num_chars for message in body.messages),
            )

    return await answer(builder, generate, state.threads, stream=bool(body.stream), receive=receive)


def render(template: ChatTemplate, body: ChatBody | TokenizeBody) -> str:
    """The conversation of a request as one prompt. Raises `RequestError`."""
    messages = [message.as_template_input() for message in body.messages or ()]
    proceed = bool(body.continue_final_message)
    arguments: dict[str, Any] = dict(body.chat_template_kwargs or {})
    tools = None
    if isinstance(body, ChatBody):
        if body.reasoning_effort is not None:
            arguments.setdefault("reasoning_effort", body.reasoning_effort)
        tools = None if body.tools is None else msgspec.json.decode(body.tools)
    return template.render(
        messages,
        add_generation_prompt=not proceed if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=proceed,
        tools=tools,
        template_kwargs=arguments,
    )


class ChatBuilder(ResponseBuilder[ChatBody, ChatChoice]):
    """Builds the objects of `/v1/chat/completions`."""

    def whole(self, generation: Generation, choices: list[ChatChoice]) -> ChatCompletion:
        """The complete answer."""
        prompt = generation.prompts[0]
        answer = ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage_of(generation),
        )
        if self._body.return_token_ids:
            answer.prompt_token_ids = prompt.request.prompt_ids
        if prompt.logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(prompt.logprobs, self._tokenizer)
        return answer

    def choice(self, generation: Generation, choice: Choice) -> ChatChoice:
        """One complete sequence."""
        stream = choice.text
        return ChatChoice(
            index=choice.index,
            message=ChatMessage(content=self._echoed() + stream.text),
            logprobs=self._logprobs(stream.logprobs),
            finish_reason=stream.finish_reason,
            stop_reason=stream.stop_reason,
            token_ids=stream.token_ids if self._body.return_token_ids else None,
        )

    async def events(self, generation: Generation) -> AsyncIterator[ChatChunk]:
        """The answer as it comes: the role, the text in pieces, the reason of the end, then the usage if asked for."""
        for choice in generation.choices:
            delta = ChatDelta(role="assistant", content=self._echoed())
            chunk = self._chunk(generation, ChatChunkChoice(index=choice.index, delta=delta))
            if self._body.return_token_ids and choice.index == 0:
                chunk.prompt_token_ids = choice.request.prompt_ids
            yield chunk
        async for choice, piece in generation.pieces():
            if self._shows(piece):
                delta = ChatDelta(content=piece.text)
                shaped = ChatChunkChoice(index=choice.index, delta=delta, logprobs=self._logprobs(piece.logprobs))
                if self._body.return_token_ids:
                    shaped.token_ids = list(piece.token_ids)
                yield self._chunk(generation, shaped)
            if piece.finish_reason is not None:
                shaped = ChatChunkChoice(
                    index=choice.index,
                    delta=ChatDelta(),
                    finish_reason=piece.finish_reason,
                    stop_reason=piece.stop_reason,
                )
                yield self._chunk(generation, shaped)
        if self._options.include_usage:
            last = self._chunk(generation)
            last.usage = usage_of(generation)
            yield last

    @property
    def _options(self) -> StreamOptions:
        return self._body.stream_options or StreamOptions()

    def _shows(self, piece: TextPiece) -> bool:
        return bool(piece.text or piece.logprobs or (piece.token_ids and self._body.return_token_ids))

    def _chunk(self, generation: Generation, *choices: ChatChunkChoice) -> ChatChunk:
        chunk = ChatChunk(id=self._id, created=self._created, model=self._model, choices=list(choices))
        if self._options.usage_in_chunks:
            chunk.usage = usage_of(generation)
        elif self._options.include_usage:
            chunk.usage = None
        return chunk

    def _logprobs(self, entries: tuple[TokenLogprobs, ...] | list[TokenLogprobs] | None) -> ChatLogprobs | None:
        return None if entries is None else chat_logprobs(entries, self._tokenizer)

    def _echoed(self) -> str:
        """With `echo`, a response that continues the last message begins with that message."""
        last = self._body.messages[-1]
        if not self._body.echo or last.role != "assistant":
            return ""
        content = last.content or ""
        return content if isinstance(content, str) else "".join(part.text for part in content)
