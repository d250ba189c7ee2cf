"""`POST /v1/chat/completions`: a conversation in, the assistant's next message out."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive

from flover.request import FinishReason, TokenLogprobs
from flover.server.app_state import AppState
from flover.server.conversation import Conversation, ConversationBuilder
from flover.server.generation import Choice, Generation
from flover.server.protocol import ChatBody, StreamOptions
from flover.server.responses import (
    CalledFunction,
    CalledFunctionDelta,
    CalledTool,
    CalledToolDelta,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    OutputDetails,
    Usage,
)
from flover.server.shaping import chat_logprobs, prompt_logprobs, usage_of
from flover.text.output_parts import Arguments, Content, OutputPart, Reasoning, ToolCall


async def create_chat_completion(state: AppState, body: ChatBody, receive: Receive, key_salt: str) -> Response:
    """Respond to one request, as a stream or whole."""
    model = state.check_model(body.model)
    state.ready_supervisor()
    conversation = Conversation(state, body)
    name = f"chatcmpl-{body.request_id or uuid.uuid4().hex}"
    builder = ChatBuilder(conversation, id=name, model=model, tokenizer=state.tokenizer)
    return await builder.respond(state, key_salt, "chatcmpl", stream=bool(body.stream), receive=receive)


class ChatBuilder(ConversationBuilder[ChatChoice]):
    """Builds the objects of `/v1/chat/completions`."""

    def whole(self, generation: Generation, choices: list[ChatChoice]) -> ChatCompletion:
        """The complete answer."""
        prompt = generation.prompts[0]
        answer = ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=self._usage(generation),
        )
        if self._body.return_token_ids:
            answer.prompt_token_ids = prompt.request.prompt_ids
        if prompt.logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(prompt.logprobs, self._tokenizer)
        return answer

    def choice(self, generation: Generation, choice: Choice) -> ChatChoice:
        """One complete sequence."""
        stream, found = choice.text, self._conversation.parsed(choice)
        message = ChatMessage(content=self._echoed() + found.content)
        if found.reasoning:
            message.reasoning = message.reasoning_content = found.reasoning
        if found.calls:
            message.content = message.content or None
            message.tool_calls = [CalledTool(id=new_call_id(), function=_function(call)) for call in found.calls]
        return ChatChoice(
            index=choice.index,
            message=message,
            logprobs=self._logprobs(stream.logprobs),
            finish_reason=self._finish_reason(stream.finish_reason, called=bool(found.calls)),
            stop_reason=stream.stop_reason,
            token_ids=stream.token_ids if self._body.return_token_ids else None,
        )

    async def events(self, generation: Generation) -> AsyncIterator[ChatChunk]:
        """The answer as it comes: the role, the parts, the reason of the end, then the usage if asked for."""
        for choice in generation.choices:
            delta = ChatDelta(role="assistant", content=self._echoed())
            chunk = self._chunk(generation, ChatChunkChoice(index=choice.index, delta=delta))
            if self._body.return_token_ids and choice.index == 0:
                chunk.prompt_token_ids = choice.request.prompt_ids
            yield chunk
        calls = [0] * len(generation.choices)
        async for choice, piece, parts in self._conversation.parts(generation):
            if not parts and (piece.logprobs or (piece.token_ids and self._body.return_token_ids)):
                parts = [Content("")]
            for number, part in enumerate(parts):
                calls[choice.index] += isinstance(part, ToolCall)
                shaped = ChatChunkChoice(index=choice.index, delta=_delta(part, calls[choice.index] - 1))
                if number == 0:  # the tokens belong to the piece, not to one of its parts
                    shaped.logprobs = self._logprobs(piece.logprobs)
                    if self._body.return_token_ids:
                        shaped.token_ids = list(piece.token_ids)
                yield self._chunk(generation, shaped)
            if piece.finish_reason is not None:
                shaped = ChatChunkChoice(
                    index=choice.index,
                    delta=ChatDelta(),
                    finish_reason=self._finish_reason(piece.finish_reason, called=calls[choice.index] > 0),
                    stop_reason=piece.stop_reason,
                )
                yield self._chunk(generation, shaped)
        if self._options.include_usage:
            await self._conversation.count_reasoning()
            last = self._chunk(generation)
            last.usage = self._usage(generation)
            yield last

    def _usage(self, generation: Generation) -> Usage:
        usage, reasoning = usage_of(generation), self._conversation.reasoning_tokens
        if reasoning:
            usage.completion_tokens_details = OutputDetails(reasoning_tokens=reasoning)
        return usage

    @property
    def _options(self) -> StreamOptions:
        return self._body.stream_options or StreamOptions()

    def _finish_reason(self, reason: FinishReason | None, *, called: bool) -> str | None:
        """As in OpenAI's API, a call of the function that the request names ends with "stop"."""
        if called and reason is FinishReason.STOP and not self._conversation.names_function:
            return "tool_calls"
        return reason

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


def new_call_id() -> str:
    """The id of a tool call: nine characters, which Mistral's templates require."""
    return uuid.uuid4().hex[:9]


def _function(call: ToolCall) -> CalledFunction:
    return CalledFunction(name=call.name, arguments=call.arguments)


def _delta(part: OutputPart, index: int) -> ChatDelta:
    """The change that a part makes; `index` is that of a tool call."""
    match part:
        case Content():
            return ChatDelta(content=part.text)
        case Reasoning():
            return ChatDelta(reasoning=part.text, reasoning_content=part.text)
        case ToolCall():
            begun = CalledFunctionDelta(name=part.name, arguments=part.arguments)
            called = CalledToolDelta(index=index, id=new_call_id(), type="function", function=begun)
            return ChatDelta(tool_calls=[called])
        case Arguments():
            more = CalledToolDelta(index=index, function=CalledFunctionDelta(arguments=part.text))
            return ChatDelta(tool_calls=[more])
