"""Options of the benchmarks; the command line is made from these fields."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """Number of requests, their lengths in tokens, and the seed of their prompts."""

    num_requests: int = 32
    prompt_len: int = 64
    output_len: int = 64
    seed: int = 0


@dataclass(frozen=True, slots=True)
class InterferenceOptions:
    """Numbers of requests and tokens. `rounds` long prompts arrive one after another, after one warm-up."""

    num_streams: int = 8
    stream_prompt_len: int = 32
    long_prompt_len: int = 1500
    long_output_len: int = 8
    rounds: int = 5
    pause: float = 1.0  # seconds of undisturbed generation before each long prompt
    seed: int = 0
