"""`/api/chat` and `/api/generate`: answers as lines of JSON."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive

from flover.config import Limits
from flover.server.app_state import AppState
from flover.server.conversation import Conversation, ConversationBuilder
from flover.server.errors import ollama_envelope
from flover.server.generation import Choice, Generation
from flover.server.ollama.models import check_name, date
from flover.server.ollama.translate import OllamaChatBody, OllamaGenerateBody, to_chat
from flover.server.protocol import ChatBody
from flover.server.responses import json_response
from flover.server.sse import Framing
from flover.text.output_parts import (
    Arguments,
    Content,
    ParsedOutput,
    Reasoning,
    ToolCall,
    WholePart,
    arguments_object,
)

Answer = dict[str, Any]


def _line(content: Any) -> bytes:
    return msgspec.json.encode(content) + b"\n"


LINES = Framing(
    _line, lambda error: _line(ollama_envelope(error)), end=b"", keep_alive=b"", media_type="application/x-ndjson"
)


Asked = tuple[OllamaChatBody | OllamaGenerateBody, ChatBody | None]


def read(body: OllamaChatBody | OllamaGenerateBody, limits: Limits) -> Asked:
    """A body, and its conversation if it has a prompt. Raises `RequestError`."""
    prompt = body.messages if isinstance(body, OllamaChatBody) else body.prompt
    return body, to_chat(body, limits) if prompt else None


async def create(state: AppState, asked: Asked, receive: Receive, key_salt: str) -> Response:
    """Respond to one request, as lines or whole. One without a prompt asks for the model to be loaded, as it is."""
    body, chat = asked
    model = check_name(state, body.model)
    state.ready_supervisor()
    chats = isinstance(body, OllamaChatBody)
    if chat is None:
        return json_response(_loaded(model, chats=chats))
    builder = LineBuilder(Conversation(state, chat), chats=chats, id="", model=model, tokenizer=state.tokenizer)
    return await builder.respond(state, key_salt, "ollama", stream=body.stream is not False, receive=receive)


def _loaded(model: str, *, chats: bool) -> Answer:
    empty: Answer = {"message": {"role": "assistant", "content": ""}} if chats else {"response": ""}
    now = date(datetime.now(UTC).timestamp())
    return {"model": model, "created_at": now, **empty, "done": True, "done_reason": "load"}


class LineBuilder(ConversationBuilder[Answer]):
    """Builds the objects of `/api/chat` and `/api/generate`."""

    framing = LINES

    def __init__(self, conversation: Conversation, *, chats: bool, **names: Any) -> None:
        super().__init__(conversation, **names)
        self._chats = chats
        self._began = time.monotonic()

    def choice(self, generation: Generation, choice: Choice) -> Answer:
        """The message of the answer."""
        return self._written(self._conversation.parsed(choice).parts)

    def whole(self, generation: Generation, choices: list[Answer]) -> Any:
        """The complete answer."""
        content: Any = choices[0]
        return self._object(msgspec.json.decode(content)) | self._end(generation)

    async def events(self, generation: Generation) -> AsyncIterator[Any]:
        """The answer as it comes, a call when it is complete; the last line has no text."""
        open_call = ParsedOutput()
        async for _, _, parts in self._conversation.parts(generation):
            whole: list[WholePart] = []
            for part in parts:
                if isinstance(part, Arguments):
                    open_call.add(part)
                    continue
                whole += open_call.take()
                if isinstance(part, ToolCall):
                    open_call.add(part)
                else:
                    whole.append(part)
            if whole:
                yield self._object(self._written(whole)) | {"done": False}
        if last := open_call.take():
            yield self._object(self._written(last)) | {"done": False}
        yield self._object(self._written([])) | self._end(generation)

    def _written(self, parts: Sequence[WholePart]) -> Answer:
        found: Answer = {"content": ""}
        for part in parts:
            match part:
                case Content():
                    found["content"] += part.text
                case Reasoning():
                    found["thinking"] = found.get("thinking", "") + part.text
                case ToolCall():
                    function = {"name": part.name, "arguments": msgspec.Raw(arguments_object(part.arguments).encode())}
                    found.setdefault("tool_calls", []).append({"function": function})
        return found

    def _object(self, content: Answer) -> Answer:
        if self._chats:
            body: Answer = {"message": {"role": "assistant", **content}}
        else:
            body = {"response": content.pop("content"), **content}
        return {"model": self._model, "created_at": date(self._created), **body}

    def _end(self, generation: Generation) -> Answer:
        """How it ended; durations are in nanoseconds."""
        total, first = time.monotonic() - self._began, generation.time_to_first_token or 0.0
        return {
            "done": True,
            "done_reason": generation.choices[0].text.finish_reason,
            "total_duration": int(total * 1e9),
            "load_duration": 0,
            "prompt_eval_count": generation.prompt_tokens,
            "prompt_eval_duration": int(first * 1e9),
            "eval_count": generation.completion_tokens,
            "eval_duration": max(0, int((total - first) * 1e9)),
        }
