"""`POST /v1/responses`."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive

from flover.config import Limits
from flover.errors import RequestError, named
from flover.request import FinishReason
from flover.server.app_state import AppState
from flover.server.conversation import Conversation, ConversationBuilder
from flover.server.errors import envelope
from flover.server.generation import Choice, Generation
from flover.server.openai_responses.tools import names_by_function, split_tools
from flover.server.openai_responses.translate import ResponsesBody, to_chat
from flover.server.protocol import ChatBody, SamplingBody
from flover.server.read_values import refuse
from flover.server.sse import Framing
from flover.text.output_parts import Arguments, Content, OutputPart, Reasoning, ToolCall, WholePart

Item = dict[str, Any]
Event = dict[str, Any]
Names = Mapping[str, Mapping[str, str]]


def _event(content: Event) -> bytes:
    """One event, under the name of its type."""
    return b"event: %b\ndata: %b\n\n" % (content["type"].encode(), msgspec.json.encode(content))


EVENTS = Framing(_event, lambda error: _event({"type": "error", **envelope(error)["error"]}), b"")


_FIELDS = {"messages": "input", "response_format": "text", "max_tokens": "max_output_tokens"}
"""What fields of chat completions are called here."""
Asked = tuple[ResponsesBody, ChatBody]


def read(body: ResponsesBody, limits: Limits) -> Asked:
    """A body and its conversation. Raises `RequestError`."""
    return body, to_chat(body, limits)


async def create_response(state: AppState, asked: Asked, receive: Receive, key_salt: str) -> Response:
    """Respond to one request, as a stream or whole."""
    body, chat = asked
    model = state.check_model(body.model)
    if state.config.strict and (left_out := split_tools(body.tools or [])[1]):
        refuse("tools", f"tools: {named(left_out[0]['type'])} is not supported: leave it out")
    state.ready_supervisor()
    conversation = Conversation(state, chat)
    name = f"resp_{uuid.uuid4().hex}"
    builder = ObjectBuilder(conversation, body, id=name, model=model, tokenizer=state.tokenizer)
    try:
        return await builder.respond(state, key_salt, "resp", stream=bool(body.stream), receive=receive)
    except RequestError as error:
        own = _FIELDS.get(error.param or "", error.param)
        raise RequestError(error.message, param=own, code=error.code) from None


class ObjectBuilder(ConversationBuilder[list[Item]]):
    """Builds the objects of `/v1/responses`."""

    framing = EVENTS

    def __init__(self, conversation: Conversation, asked: ResponsesBody, **names: Any) -> None:
        super().__init__(conversation, **names)
        self._asked = asked
        self._tools, _ = split_tools(asked.tools or [])
        self._names = names_by_function(self._tools)

    def choice(self, generation: Generation, choice: Choice) -> list[Item]:
        """The items of the answer."""
        status = _status(generation)
        return [_item(part, _new_id(part), status, self._names) for part in self._conversation.parsed(choice).parts]

    def whole(self, generation: Generation, choices: list[list[Item]]) -> Any:
        """The complete response."""
        return self._response(generation, choices[0], _status(generation))

    async def events(self, generation: Generation) -> AsyncIterator[Any]:
        """The response as it comes: an item after the other, each with its parts, then the whole."""
        number = 0

        def numbered(events: Iterator[Event]) -> Iterator[Event]:
            nonlocal number
            for one in events:
                yield {**one, "sequence_number": number}
                number += 1

        begun = self._response(generation, [], "in_progress")
        first = ({"type": f"response.{kind}", "response": begun} for kind in ("created", "in_progress"))
        for one in numbered(first):
            yield one
        items = _Items(self._names)
        async for _, _, parts in self._conversation.parts(generation):
            for part in parts:
                for one in numbered(items.add(part)):
                    yield one
        await self._conversation.count_reasoning()
        status = _status(generation)
        for one in numbered(items.close(status)):
            yield one
        last = self._response(generation, items.done, status)
        for one in numbered(iter([{"type": f"response.{status}", "response": last}])):
            yield one

    def _response(self, generation: Generation, output: Any, status: str) -> Event:
        asked = self._asked
        done = status != "in_progress"
        effort = None if asked.reasoning is None else asked.reasoning.effort
        params = generation.choices[0].request.params
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._model,
            "output": output,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": effort, "summary": None},
            "store": False,
            **{name: getattr(params, name) for name in SamplingBody.__struct_fields__},
            "text": {"format": (asked.text and asked.text.format) or {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": self._tools,
            "truncation": "disabled",
            "metadata": asked.metadata or {},
            "usage": self._usage(generation) if done else None,
        }

    def _usage(self, generation: Generation) -> dict[str, Any]:
        prompt, completion = generation.prompt_tokens, generation.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": generation.cached_tokens},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": self._conversation.reasoning_tokens},
            "total_tokens": prompt + completion,
        }


class _Items:
    """The items of a streamed response. Each method gives the events that it causes."""

    def __init__(self, names: Names) -> None:
        self.done: list[Item] = []
        self._names = names
        self._part: WholePart | None = None
        """The part that the open item has so far."""
        self._id = ""

    def add(self, part: OutputPart) -> Iterator[Event]:
        """Add a part, to the open item if it has the same type."""
        if isinstance(part, Arguments):
            assert isinstance(self._part, ToolCall)
            self._part = ToolCall(self._part.name, self._part.arguments + part.text)
            yield self._event("function_call_arguments.delta", delta=part.text)
            return
        if type(part) is not type(self._part) or isinstance(part, ToolCall):
            yield from self.close("completed")
            self._part, self._id = _empty(part), _new_id(part)
            item = _item(self._part, self._id, "in_progress", self._names)
            item["content" if isinstance(part, Content | Reasoning) else "arguments"] = (
                [] if isinstance(part, Content | Reasoning) else ""
            )
            yield self._event("output_item.added", item=item)
            if isinstance(part, Content):
                yield self._event("content_part.added", content_index=0, part=_text_part(""))
        match part:
            case Content():
                assert isinstance(self._part, Content)
                self._part = Content(self._part.text + part.text)
                yield self._event("output_text.delta", content_index=0, delta=part.text, logprobs=[])
            case Reasoning():
                assert isinstance(self._part, Reasoning)
                self._part = Reasoning(self._part.text + part.text)
                yield self._event("reasoning_text.delta", content_index=0, delta=part.text)
            case ToolCall():
                self._part = part

    def close(self, status: str) -> Iterator[Event]:
        """End the open item."""
        part = self._part
        if part is None:
            return
        match part:
            case Content():
                yield self._event("output_text.done", content_index=0, text=part.text, logprobs=[])
                yield self._event("content_part.done", content_index=0, part=_text_part(part.text))
            case Reasoning():
                yield self._event("reasoning_text.done", content_index=0, text=part.text)
            case ToolCall():
                called = self._names.get(part.name, {}).get("name", part.name)
                yield self._event("function_call_arguments.done", name=called, arguments=part.arguments)
        item = _item(part, self._id, status, self._names)
        yield self._event("output_item.done", item=item)
        self.done.append(item)
        self._part = None

    def _event(self, kind: str, **content: Any) -> Event:
        own = {} if "item" in content else {"item_id": self._id}
        return {"type": f"response.{kind}", "output_index": len(self.done), **own, **content}


def _status(generation: Generation) -> str:
    limited = generation.choices[0].text.finish_reason is FinishReason.LENGTH
    return "incomplete" if limited else "completed"


def _new_id(part: WholePart) -> str:
    kinds = {Content: "msg", Reasoning: "rs", ToolCall: "fc"}
    return f"{kinds[type(part)]}_{uuid.uuid4().hex}"


def _empty(part: WholePart) -> WholePart:
    return part if isinstance(part, ToolCall) else type(part)("")


def _text_part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(part: WholePart, name: str, status: str, names: Names) -> Item:
    """A part as an item of the output. `names` are those of the functions of namespaces."""
    match part:
        case Content():
            content = [_text_part(part.text)]
            return {"type": "message", "id": name, "role": "assistant", "status": status, "content": content}
        case Reasoning():
            text = [{"type": "reasoning_text", "text": part.text}]
            return {"type": "reasoning", "id": name, "status": status, "summary": [], "content": text}
        case ToolCall():
            called = {"call_id": f"call_{name[3:]}", "name": part.name, "arguments": part.arguments}
            return {"type": "function_call", "id": name, "status": status, **called, **names.get(part.name, {})}
