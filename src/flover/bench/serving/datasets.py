"""Data sets of benchmarks: random prompts, shared prefixes, a JSONL file, a recorded trace.

Generated prompts are token ids from a seed, so that lengths are exact without a tokenizer. Different seeds give
different prompts, so that runs share no prefixes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flover.bench.serving.jsonl import Line, read_lines
from flover.bench.workload import Lengths
from flover.config import flag_name, setting
from flover.errors import ConfigError

COMMON_IDS = range(16, 256)
"""Token ids valid in every vocabulary."""
Prompt = tuple[int, ...] | str | tuple[dict[str, Any], ...]
"""Token ids, a text, or the messages of a conversation."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One request of a data set; `prompt_len` is None if only a tokenizer can tell, `at` (seconds) if the data set has
    no times."""

    prompt: Prompt
    output_len: int
    prompt_len: int | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Common inputs of data sets: a seed, the token ids to use, and the file to read, if any."""

    seed: int
    ids: Sequence[int] = COMMON_IDS
    path: str | None = None
    shuffle: bool = True
    oversample: bool = True


class Dataset(Protocol):
    """A source of samples."""

    def samples(self, num: int, draw: Draw) -> list[SampleRequest]:
        """`num` samples, or fewer if there are no more. Raises `ConfigError`."""
        ...


def _tokens(rng: random.Random, ids: Sequence[int], num: int) -> tuple[int, ...]:
    return tuple(rng.choices(ids, k=num))


def _made(prompt: tuple[int, ...], output_len: int) -> SampleRequest:
    return SampleRequest(prompt, output_len, len(prompt))


def _positive(dataset: Any, *names: str) -> None:
    for name in names:
        if getattr(dataset, name) < 1:
            raise ConfigError(f"{flag_name(name)} must be at least 1, got {getattr(dataset, name)}")


_RANDOM, _REPETITION, _SHARED = "random data set", "prefix_repetition data set", "generated-shared-prefix data set"
_CUSTOM, _TRACE = "custom data set", "timed_trace data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPrompts:
    """Random ids after a common prefix of `prefix_len` tokens."""

    random_input_len: int = setting(1024, "prompt tokens after the prefix", group=_RANDOM)
    random_output_len: int = setting(128, "output tokens", group=_RANDOM)
    random_range_ratio: float = setting(
        0.0, "lengths are uniform between (1 - r) and (1 + r) times these", group=_RANDOM
    )
    random_prefix_len: int = setting(0, "tokens of a common prefix of all prompts", group=_RANDOM)

    def __post_init__(self) -> None:
        _positive(self, "random_input_len", "random_output_len")
        if not 0 <= self.random_range_ratio < 1:
            raise ConfigError(f"--random-range-ratio must be in [0, 1), got {self.random_range_ratio:g}")
        if self.random_prefix_len < 0:
            raise ConfigError(f"--random-prefix-len must be at least 0, got {self.random_prefix_len}")

    def samples(self, num: int, draw: Draw) -> list[SampleRequest]:
        rng = random.Random(draw.seed)
        prefix = _tokens(rng, draw.ids, self.random_prefix_len)
        inputs, outputs = self._spread(self.random_input_len), self._spread(self.random_output_len)
        return [_made(prefix + _tokens(rng, draw.ids, inputs.draw(rng)), outputs.draw(rng)) for _ in range(num)]

    def _spread(self, length: int) -> Lengths:
        low, high = length * (1 - self.random_range_ratio), length * (1 + self.random_range_ratio)
        return Lengths(max(1, math.floor(low)), math.ceil(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixRepetition:
    """A number of prefixes, each with many suffixes, in random order."""

    prefix_repetition_prefix_len: int = setting(256, "tokens of a prefix", group=_REPETITION)
    prefix_repetition_suffix_len: int = setting(256, "tokens after it", group=_REPETITION)
    prefix_repetition_num_prefixes: int = setting(10, "different prefixes", group=_REPETITION)
    prefix_repetition_output_len: int = setting(128, "output tokens", group=_REPETITION)

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)

    def samples(self, num: int, draw: Draw) -> list[SampleRequest]:
        if num < self.prefix_repetition_num_prefixes:
            raise ConfigError(
                f"--prefix-repetition-num-prefixes ({self.prefix_repetition_num_prefixes}) is more than "
                f"--num-prompts ({num})"
            )
        return _shared(
            draw,
            num,
            groups=self.prefix_repetition_num_prefixes,
            prefix_len=self.prefix_repetition_prefix_len,
            suffix_len=self.prefix_repetition_suffix_len,
            output_len=self.prefix_repetition_output_len,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """SGLang's generated-shared-prefix: groups of prompts with a system prompt each."""

    gsp_num_groups: int = setting(64, "different system prompts", group=_SHARED)
    gsp_prompts_per_group: int = setting(16, "prompts with the same system prompt", group=_SHARED)
    gsp_system_prompt_len: int = setting(2048, "tokens of a system prompt", group=_SHARED)
    gsp_question_len: int = setting(128, "tokens after it", group=_SHARED)
    gsp_output_len: int = setting(256, "output tokens", group=_SHARED)

    def __post_init__(self) -> None:
        _positive(self, *self.__dataclass_fields__)

    @property
    def num_prompts(self) -> int:
        """Number of prompts, fixed by this data set."""
        return self.gsp_num_groups * self.gsp_prompts_per_group

    def samples(self, num: int, draw: Draw) -> list[SampleRequest]:
        return _shared(
            draw,
            num,
            groups=self.gsp_num_groups,
            prefix_len=self.gsp_system_prompt_len,
            suffix_len=self.gsp_question_len,
            output_len=self.gsp_output_len,
        )


def _shared(
    draw: Draw, num: int, *, groups: int, prefix_len: int, suffix_len: int, output_len: int
) -> list[SampleRequest]:
    rng, ids = random.Random(draw.seed), draw.ids
    prefixes = [_tokens(rng, ids, prefix_len) for _ in range(groups)]
    found = [_made(prefixes[index % groups] + _tokens(rng, ids, suffix_len), output_len) for index in range(num)]
    rng.shuffle(found)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomFile:
    """Lines with a `prompt` (a text or token ids) or `messages`, and an `output_len` if it is not the same for all."""

    custom_output_len: int = setting(256, "output tokens where a line has no output_len", group=_CUSTOM)

    def __post_init__(self) -> None:
        _positive(self, "custom_output_len")

    def samples(self, num: int, draw: Draw) -> list[SampleRequest]:
        found = [self._sample(line) for line in read_lines(draw.path or "")]
        if draw.shuffle:
            random.Random(draw.seed).shuffle(found)
        if len(found) < num and draw.oversample:
            found = [found[index % len(found)] for index in range(num)]
        return found[:num]

    def _sample(self, line: Line) -> SampleRequest:
        output_len = line.whole(("output_len", "output_tokens"), least=1, default=self.custom_output_len)
        messages = line.fields.get("messages")
        if messages is not None:
            if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
                raise line.error("messages must be a list of objects")
            return SampleRequest(tuple(messages), output_len)
        prompt = line.fields.get("prompt")
        if isinstance(prompt, str) and prompt:
            return SampleRequest(prompt, output_len)
        if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
            return _made(tuple(prompt), output_len)
        raise line.error("it needs a prompt (a text or token ids) or messages")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedTrace:
    """A recorded trace: lines with a time, lengths, and ids of the prompt's blocks (equal ids are equal tokens)."""

    timed_trace_chunk_hash_size: int = setting(16, "tokens of a block", group=_TRACE)
    timed_trace_sec_multiplier: float = setting(1.0, "seconds in one unit of the trace's times", group=_TRACE)
    timed_trace_label_timestamp: str = setting("timestamp", "field with the time", group=_TRACE)
    timed_trace_label_input_length: str = setting("input_length", "field with the prompt tokens", group=_TRACE)
    timed_trace_label_output_length: str = setting("output_length", "field with the output tokens", group=_TRACE)
    timed_trace_label_hash_ids: str = setting("hash_ids", "field with the ids of the blocks", group=_TRACE)

    def __post_init__(self) -> None:
        _positive(self, "timed_trace_chunk_hash_size")
        if not self.timed_trace_sec_multiplier > 0:
            raise ConfigError(f"--timed-trace-sec-multiplier must be above 0, got {self.timed_trace_sec_multiplier:g}")

    def samples(self, num: int, draw: Draw) -> list[SampleRequest]:
        lines = read_lines(draw.path or "")[:num]
        times = [line.number(self.timed_trace_label_timestamp) for line in lines]
        start, scale = min(times), self.timed_trace_sec_multiplier
        found = [self._sample(line, scale * (time - start), draw) for line, time in zip(lines, times, strict=True)]
        return sorted(found, key=lambda sample: sample.at or 0.0)

    def _sample(self, line: Line, at: float, draw: Draw) -> SampleRequest:
        input_len = line.whole((self.timed_trace_label_input_length,), least=1)
        output_len = line.whole((self.timed_trace_label_output_length,), least=1)
        blocks = line.fields.get(self.timed_trace_label_hash_ids)
        if blocks is None:  # no information on shared prefixes: a unique prompt
            tokens = _tokens(random.Random(f"{draw.seed} line {line.place}"), draw.ids, input_len)
            return SampleRequest(tokens, output_len, input_len, at)
        size = self.timed_trace_chunk_hash_size
        if not isinstance(blocks, list) or len(blocks) * size < input_len:
            raise line.error(
                f"its blocks cannot hold {input_len} prompt tokens with --timed-trace-chunk-hash-size {size}"
            )
        parts = [_tokens(random.Random(f"{draw.seed} block {block}"), draw.ids, size) for block in blocks]
        return SampleRequest(tuple(token for part in parts for token in part)[:input_len], output_len, input_len, at)
