"""What callers of `LLM` pass, checked before anything is computed: errors name the argument and what it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flover.errors import RequestError, wrong_value
from flover.request import SamplingParams
from flover.sampling_checks import PRIORITY, check_number

_KINDS: Mapping[str, tuple[type, ...]] = {
    "a string": (str,),
    "true or false": (bool,),
    "a list": (Sequence,),
    "a dictionary": (Mapping,),
}


def check_prompts(prompts: Any) -> None:
    """A prompt or a list of prompts. Raises `RequestError`."""
    if not isinstance(prompts, str | Mapping | Sequence) or isinstance(prompts, bytes | bytearray):
        raise wrong_value("prompts", "text, token ids, a dictionary or a list of these", prompts)


def check_messages(messages: Any) -> None:
    """A conversation or a list of conversations. Raises `RequestError`."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes | bytearray):
        raise wrong_value("messages", "a list of messages or a list of conversations", messages)


def check_priority(priority: Any) -> None:
    """None, a whole number, or a list of them. Raises `RequestError`."""
    values = priority if isinstance(priority, Sequence) and not isinstance(priority, str) else [priority]
    for value in values:
        if value is not None:
            check_number("priority", value, PRIORITY)


def check_kind(name: str, value: Any, kind: str, *, optional: bool = False) -> None:
    """That an argument is of a kind (`_KINDS`). Raises `RequestError`."""
    if optional and value is None:
        return
    plain = isinstance(value, str | bytes) and kind == "a list"
    if plain or not isinstance(value, _KINDS[kind]):
        raise wrong_value(name, kind, value)


def is_conversation(messages: Sequence[Any]) -> bool:
    """One conversation is a list of messages; several are a list of those."""
    return not messages or isinstance(messages[0], Mapping) or not isinstance(messages[0], Sequence)


def render_all(render: Callable[[Any], str], messages: Sequence[Any]) -> list[str]:
    """The prompt of every conversation."""
    conversations: Sequence[Any] = [messages] if is_conversation(messages) else messages
    prompts = []
    for index, conversation in enumerate(conversations):
        with naming(index, len(conversations), "messages"):
            prompts.append(render(conversation))
    return prompts


def one_each(name: str, value: Any, count: int) -> list[Any]:
    """`value` for every prompt, or the values, if it is a list of the right length."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise RequestError(f"{name}: {len(value)} given for {count} prompts", param=name)
    return list(value)


def params_each(value: Any, count: int) -> list[SamplingParams]:
    """The sampling parameters of every prompt. Raises `RequestError`."""
    found = one_each("sampling_params", value, count)
    for params in found:
        if not isinstance(params, SamplingParams):
            raise wrong_value("sampling_params", "SamplingParams", params)
    return found


@contextlib.contextmanager
def naming(index: int, count: int, what: str) -> Iterator[None]:
    """Put the index of the prompt at fault before the message, where there are several."""
    try:
        yield
    except RequestError as error:
        if count == 1:
            raise
        raise RequestError(f"{what}[{index}]: {error.message}", param=error.param, code=error.code) from error
