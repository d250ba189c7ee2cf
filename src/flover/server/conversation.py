"""One conversation and its answer, for every API that has conversations: rendered, generated, and split into reasoning,
content and tool calls."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Receive

from flover.errors import RequestError
from flover.request import SamplingParams
from flover.server.answer import ResponseBuilder, answer
from flover.server.app_state import AppState
from flover.server.generation import Choice, Generation
from flover.server.params import chat_params, own_names
from flover.server.protocol import ChatBody, TokenizeBody
from flover.structured_outputs import StructuredOutputsParams
from flover.text import plain_tools
from flover.text.calls_or_text import CallsOrText
from flover.text.chat import ChatTemplate
from flover.text.output_format import Forced, OutputFormat
from flover.text.output_parts import (
    OutputParser,
    OutputPart,
    ParsedOutput,
    PlainParser,
    Reasoning,
    join_parts,
    parse_output,
)
from flover.text.stream import TextPiece
from flover.text.thinking import thinking_budget

MAX_PROMPT_END = 64
"""Characters at the end of a prompt that show whether the answer begins inside reasoning."""


C = TypeVar("C")


class Conversation:
    """A conversation whose answer is asked for. Raises `RequestError` if its tools cannot be called."""

    def __init__(self, state: AppState, body: ChatBody) -> None:
        self.body = body
        self._state = state
        self._template = state.need_template()
        self._choice = body.choice_of_tools
        self._tools = None if self._choice.mode == "none" else body.callable_functions
        self._format = self._format_of(state.output_format)
        self._forced = Forced(self._tools or {}, self._choice.name) if self._choice.forces else None
        self._several = body.parallel_tool_calls is not False
        self._either: CallsOrText | None = None
        """If calls are left to the model, and a text has a format."""
        self._some = self._choice.mode == "auto" and self._tools != body.functions
        """Whether calls are left to the model, but only of some tools."""
        self._constrained = False
        self._prompt_end = ""
        self._thoughts: dict[int, str] = {}
        self.reasoning_tokens = 0
        """Tokens of the reasoning of sequences that were `parsed`, or of the `parts` once `count_reasoning` was called:
        of its text, without the markers around it."""

    @property
    def names_function(self) -> bool:
        """Whether the request names the function to call."""
        return self._choice.mode == "function"

    async def generate(self, key_salt: str, name: str) -> Generation:
        """Submit the conversation. `name` is the beginning of the id in the engine. Raises as `AppState.generate`."""
        body = self.body
        with own_names(body, tools=self._tools is not None):
            return await self._state.generate(
                body,
                self._params(),
                1,
                self._prompts,
                name=f"{name}-{uuid.uuid4().hex}",
                add_special_tokens=bool(body.add_special_tokens),
                key_salt=key_salt,
                num_chars=sum(message.num_chars for message in body.messages),
            )

    def parser(self) -> OutputParser:
        """A parser for one sequence, once the conversation has been submitted."""
        if self._either is not None:
            return self._either.parser()
        if self._constrained and self._forced is None and not self._some:
            return PlainParser()
        several, forced = self._several, self._forced
        return self._format.parser(
            self._prompt_end, tools=self._tools, several=several, forced=forced, as_json=self._some
        )

    def parsed(self, choice: Choice) -> ParsedOutput:
        """The parts of a complete sequence."""
        found = parse_output(self.parser(), choice.text.text)
        self._count(found.reasoning)
        if self.body.include_reasoning is False:
            found.reasoning = ""
        return found

    async def parts(self, generation: Generation) -> AsyncIterator[tuple[Choice, TextPiece, list[OutputPart]]]:
        """The pieces of all sequences as they come, and the parts that each completes."""
        parsers = [self.parser() for _ in generation.choices]
        async for choice, piece in generation.pieces():
            parser = parsers[choice.index]
            parts = parser.feed(piece.text)
            if piece.finish_reason is not None:
                parts += parser.finish()
            for part in parts:
                if isinstance(part, Reasoning):
                    self._thoughts[choice.index] = self._thoughts.get(choice.index, "") + part.text
            if self.body.include_reasoning is False:
                parts = [part for part in parts if not isinstance(part, Reasoning)]
            yield choice, piece, join_parts(parts)

    async def count_reasoning(self) -> None:
        """Count the reasoning of the parts, at their end."""
        if self._thoughts:
            num_chars = sum(map(len, self._thoughts.values()))
            await self._state.in_thread(lambda: self._count(*self._thoughts.values()), num_chars)

    def _count(self, *texts: str) -> None:
        tokenizer = self._state.need_tokenizer("messages")
        self.reasoning_tokens += sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts if text)

    def _format_of(self, form: OutputFormat) -> OutputFormat:
        if self.body.separate_reasoning is False:
            form = form.without_reasoning()
        if self._tools is None or self._choice.forces:
            return form
        if not self._template.writes_tools:
            return replace(form, tools=form.tools or plain_tools.FORMAT)
        if form.tools is None:
            raise RequestError(
                "tools: the model's chat template asks for calls in a form that is not known here; --tool-call-parser "
                "can name it, and tool_choice required or none do not need it",
                param="tools",
            )
        return form

    def _params(self) -> SamplingParams:
        body, state = self.body, self._state
        params = chat_params(body, state.sampling_defaults, strict=state.config.strict)
        if self._forced is not None:
            schema = self._forced.schema(several=self._several)
            params = msgspec.structs.replace(params, structured_outputs=_constraint(schema))
        tokenizer = state.need_tokenizer("messages")
        constraint = None if body.response_format is None else body.response_format.constraint
        self._some = self._some and params.structured_outputs is None and constraint is None
        limited = self._some or constraint is not None
        if self._tools and self._forced is None and limited and self._format.tools is not None:
            budgeted = body.thinking_token_budget not in (None, -1)
            if self._some and budgeted:
                raise RequestError(
                    "thinking_token_budget and tool_choice allowed_tools cannot both be enforced: send one of them",
                    param="thinking_token_budget",
                )
            either = CallsOrText(self._format.tools, self._tools, self._several, reasons=not budgeted)
            self._either = None if self._some else either
            rules = either.grammar(constraint, tokenizer.special_texts, self._format.reasoning)
            params = msgspec.structs.replace(params, structured_outputs=rules)
        self._constrained = params.structured_outputs is not None
        if body.skip_special_tokens is None and (not self._constrained or self._either is not None or self._some):
            markers = self._format.markers(calls=self._tools is not None)
            if any(map(tokenizer.holds_special, markers)):
                params = msgspec.structs.replace(params, skip_special_tokens=False)
        return self._thinking(params)

    def _thinking(self, params: SamplingParams) -> SamplingParams:
        """With the budget of the reasoning; -1 means none, as in vLLM. A constraint leaves no room for reasoning."""
        tokens = self.body.thinking_token_budget
        if tokens is None or tokens < 0:
            return params
        form, tokenizer = self._state.output_format, self._state.need_tokenizer("messages")
        budget = thinking_budget(tokens, form, tokenizer)
        return params if self._constrained else params.replace(thinking=budget)

    def _prompts(self) -> list[str]:
        prompt = render(self._template, self.body)
        self._prompt_end = prompt[-MAX_PROMPT_END:]
        return [prompt]


class ConversationBuilder(ResponseBuilder[ChatBody, C]):
    """Builds the objects of an API that answers conversations."""

    def __init__(self, conversation: Conversation, **names: Any) -> None:
        super().__init__(conversation.body, **names)
        self._conversation = conversation

    async def respond(self, state: AppState, key_salt: str, name: str, *, stream: bool, receive: Receive) -> Response:
        """Submit the conversation, and respond as a stream or whole. `name` as in `Conversation.generate`."""
        generate = partial(self._conversation.generate, key_salt, name)
        return await answer(self, generate, state.threads, stream=stream, receive=receive)


def _constraint(schema: dict[str, Any]) -> StructuredOutputsParams:
    try:
        return StructuredOutputsParams(json=schema)
    except RequestError as error:
        raise RequestError(error.message.replace("structured_outputs.json", "tools"), param="tools") from None


def render(template: ChatTemplate, body: ChatBody | TokenizeBody) -> str:
    """The conversation of a request as one prompt. Raises `RequestError`."""
    messages = [message.as_template_input() for message in body.messages or ()]
    proceed = bool(body.continue_final_message)
    arguments: dict[str, Any] = dict(body.chat_template_kwargs or {})
    tools = None
    if isinstance(body, ChatBody):
        if body.reasoning_effort is not None:
            arguments.setdefault("reasoning_effort", body.reasoning_effort)
        if body.enable_thinking is not None:
            arguments.setdefault("enable_thinking", body.enable_thinking)
        tools = None if body.tools is None else msgspec.json.decode(body.tools)
        if not template.writes_tools and (tools or any(_is_tool_message(one) for one in messages)):
            messages, tools = (
                plain_tools.write_plain(messages, tools if body.choice_of_tools.mode != "none" else None),
                None,
            )
    return template.render(
        messages,
        add_generation_prompt=not proceed if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=proceed,
        tools=tools,
        template_kwargs=arguments,
    )


def _is_tool_message(message: dict[str, Any]) -> bool:
    return message["role"] == "tool" or bool(message.get("tool_calls"))
