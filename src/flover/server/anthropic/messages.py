"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from msgspec import Raw
from starlette.responses import Response
from starlette.types import Receive

from flover.request import FinishReason
from flover.server.anthropic.errors import EVENTS
from flover.server.app_state import AppState
from flover.server.conversation import Conversation, ConversationBuilder, render
from flover.server.generation import Choice, Generation
from flover.server.protocol import ChatBody
from flover.server.responses import json_response
from flover.text.output_parts import (
    Arguments,
    Content,
    OutputPart,
    Reasoning,
    ToolCall,
    WholePart,
    arguments_object,
)
from flover.text.prompts import encode_text
from flover.text.stream import TextStream

Block = dict[str, Any]


async def create_message(state: AppState, body: ChatBody, receive: Receive, key_salt: str) -> Response:
    """Respond to one request, as a stream or whole."""
    model = state.check_model(body.model)
    state.ready_supervisor()
    conversation = Conversation(state, body)
    builder = MessageBuilder(conversation, id=f"msg_{uuid.uuid4().hex}", model=model, tokenizer=state.tokenizer)
    return await builder.respond(state, key_salt, "msg", stream=bool(body.stream), receive=receive)


async def count_tokens(state: AppState, body: ChatBody) -> Response:
    """The number of tokens of the prompt that a conversation becomes."""
    state.check_model(body.model)
    template, tokenizer, facts = state.need_template(), state.need_tokenizer("messages"), state.facts
    ids = await state.in_thread(
        lambda: encode_text(render(template, body), tokenizer, facts, add_special_tokens=False),
        num_chars=sum(message.num_chars for message in body.messages),
    )
    return json_response({"input_tokens": len(ids)})


class MessageBuilder(ConversationBuilder[list[Block]]):
    """Builds the objects of `/v1/messages`."""

    framing = EVENTS

    def __init__(self, conversation: Conversation, **names: Any) -> None:
        super().__init__(conversation, **names)
        self._called = False

    def choice(self, generation: Generation, choice: Choice) -> list[Block]:
        """The content of the answer."""
        found = self._conversation.parsed(choice)
        self._called = bool(found.calls)
        return [{**_start(part), **_filled(part)} for part in found.parts]

    def whole(self, generation: Generation, choices: list[list[Block]]) -> Any:
        """The complete message."""
        (content,) = choices
        return self._message(generation, content) | _end(generation.choices[0].text, called=self._called)

    async def events(self, generation: Generation) -> AsyncIterator[Any]:
        """The message as it comes: a block after the other, then why it ended."""
        yield {"type": "message_start", "message": self._message(generation, [])}
        index, kind = -1, ""
        called = False
        async for _, _, parts in self._conversation.parts(generation):
            for part in parts:
                if not isinstance(part, Arguments):
                    block = _start(part)
                    if block["type"] != kind or isinstance(part, ToolCall):
                        if index >= 0:
                            yield {"type": "content_block_stop", "index": index}
                        index, kind = index + 1, block["type"]
                        yield {"type": "content_block_start", "index": index, "content_block": block}
                called = called or isinstance(part, ToolCall)
                yield {"type": "content_block_delta", "index": index, "delta": _delta(part)}
        if index >= 0:
            yield {"type": "content_block_stop", "index": index}
        ended = _end(generation.choices[0].text, called=called)
        yield {"type": "message_delta", "delta": ended, "usage": _usage(generation)}
        yield {"type": "message_stop"}

    def _message(self, generation: Generation, content: Any) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(generation),
        }


def _usage(generation: Generation) -> dict[str, int]:
    """`input_tokens` are those that no cache had."""
    cached = generation.cached_tokens
    return {
        "input_tokens": generation.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": generation.completion_tokens,
    }


def _end(text: TextStream, *, called: bool) -> dict[str, Any]:
    sequence = text.stop_reason if isinstance(text.stop_reason, str) else None
    if text.finish_reason is FinishReason.LENGTH:
        reason = "max_tokens"
    elif sequence is not None:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if called else "end_turn"
    return {"stop_reason": reason, "stop_sequence": sequence}


def _start(part: WholePart) -> Block:
    """The block of a part, without its content."""
    match part:
        case Reasoning():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case Content():
            return {"type": "text", "text": ""}
        case ToolCall():
            return {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex[:24]}", "name": part.name, "input": {}}


def _filled(part: WholePart) -> Block:
    match part:
        case Reasoning():
            return {"thinking": part.text}
        case Content():
            return {"text": part.text}
        case ToolCall():
            return {"input": Raw(arguments_object(part.arguments).encode())}


def _delta(part: OutputPart) -> Block:
    match part:
        case Reasoning():
            return {"type": "thinking_delta", "thinking": part.text}
        case Content():
            return {"type": "text_delta", "text": part.text}
        case ToolCall():
            return {"type": "input_json_delta", "partial_json": part.arguments}
        case Arguments():
            return {"type": "input_json_delta", "partial_json": part.text}
