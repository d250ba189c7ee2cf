"""Body fields that are accepted without being supported, as data.

Every field of a body is one of these. *Supported*: a field of the types in `protocol.py`. *Information*: metadata that
does not change the output; any value is accepted. *Neutral*: an unsupported feature; values that do not use it are
accepted. *Unknown*: refused by name. Null is the same as absent, for every field. With `--strict` only the
default fields of OpenAI's clients are accepted.

The names are those of OpenAI, vLLM, SGLang, llama.cpp, TGI, LMDeploy and Ollama.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from flover.errors import RequestError, named, shown

MAX_INFORMATION_BYTES = 16 * 2**10
"""Maximum size of a value of an information field, in bytes of JSON."""
MAX_NEUTRAL_BYTES = 256
"""Maximum length of a neutral value."""

INFORMATION = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prediction",
        "verbosity",
        "web_search_options",
        "parallel_tool_calls",
        "include_reasoning",
        "separate_reasoning",
        "stream_reasoning",
        "reasoning_format",
        "cache_prompt",
        "keep_alive",
        "verbose",
        "rid",
        "session_id",
        "client_metadata",
        "id_slot",
        "slot_id",
        "mirostat_tau",
        "mirostat_eta",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "xtc_threshold",
        "dynatemp_exponent",
    ]
)
"""Information fields; also parameters of samplers whose switches are neutral below."""

OFF = (False,)
NONE: tuple[list[Any], ...] = ([],)
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "functions": NONE,
    "function_call": ("none", "auto"),
    # vLLM
    "use_beam_search": OFF,
    "length_penalty": (1,),
    "early_stopping": OFF,
    "detokenize": (True,),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": NONE,
    "guided_grammar": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "structural_tag": (),
    "logits_processors": NONE,
    "documents": NONE,
    "chat_template": (),
    "mm_processor_kwargs": ({},),
    "media_io_kwargs": ({},),
    "kv_transfer_params": ({},),
    "vllm_xargs": ({},),
    "prompt_embeds": NONE,
    "return_tokens_as_token_ids": OFF,
    "logprob_token_ids": NONE,
    "thinking_token_budget": (),
    "repetition_detection": (),
    # OpenAI's responses
    "previous_response_id": (),
    "conversation": (),
    "top_logprobs": (0,),
    # Anthropic's: the second is what Claude Code sends, and changes nothing
    "context_management": ({"edits": []}, {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    "mcp_servers": NONE,
    "container": (),
    # SGLang
    "regex": (),
    "ebnf": (),
    "json_schema": ({},),
    "stop_regex": NONE,
    "no_stop_trim": OFF,
    "min_new_tokens": (0,),
    "lora_path": (),
    "custom_logit_processor": (),
    "return_hidden_states": OFF,
    # llama.cpp
    "grammar": ("",),
    "mirostat": (0,),
    "tfs_z": (1,),
    "typical_p": (1,),
    "repeat_penalty": (1,),
    "repeat_last_n": (-1,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "top_n_sigma": (-1, 0),
    "min_keep": (0,),
    "n_keep": (0,),
    "n_discard": (0,),
    "n_probs": (0,),
    "penalize_nl": OFF,
    "samplers": NONE,
    "timings_per_token": OFF,
    "return_progress": OFF,
    "post_sampling_probs": OFF,
    "t_max_predict_ms": (0,),
    "lora": NONE,
    # TGI
    "do_sample": (True,),
    "details": OFF,
    "decoder_input_details": OFF,
    "return_full_text": OFF,
    "watermark": OFF,
    "top_n_tokens": (0,),
    "adapter_id": (),
    # LMDeploy, Ollama
    "repetition_ngram_size": (0,),
    "adapter_name": (),
    "think": OFF,
    "format": ("",),
    "raw": OFF,
    "template": ("",),
    "system": ("",),
    "context": NONE,
    "images": NONE,
    "logprobs": OFF,
    "options": ({},),
}
"""Neutral fields, and the values with which they do not change the output."""

STRICT: Mapping[str, Any] = {
    "user": str,
    "metadata": dict[str, str],
    "store": Literal[False],
    "service_tier": Literal["auto", "default"],
    "safety_identifier": str,
    "prompt_cache_key": str,
    "parallel_tool_calls": bool,
    "include_reasoning": bool,
    **dict.fromkeys(("suffix", "modalities", "functions", "function_call", "documents", "chat_template")),
}
"""The fields of the above that `--strict` accepts, with their values or types."""

REASONS: Mapping[str, str] = {
    "functions": "functions were replaced by tools: send tools",
    "modalities": 'only text is supported: leave modalities out or send ["text"]',
    "chat_template": "a template in a request is not supported: the operator can give one with --chat-template",
    "suffix": "filling in before a suffix is not supported",
    "previous_response_id": "responses are not stored: send the earlier items in input",
    "conversation": "conversations are not stored: send the earlier items in input",
    "repeat_penalty": "repeat_penalty is called repetition_penalty here",
    "min_new_tokens": "min_new_tokens is called min_tokens here",
    **{
        old: f"{old} is called structured_outputs here: send structured_outputs with {new}"
        for old, new in (
            ("guided_json", "json"),
            ("guided_regex", "regex"),
            ("guided_choice", "choice"),
            ("guided_grammar", "grammar"),
            ("guided_whitespace_pattern", "whitespace_pattern"),
            ("regex", "regex"),
            ("ebnf", "grammar"),
            ("json_schema", "json"),
            ("grammar", "grammar"),
        )
    },
}
"""Error messages of neutral fields that need more than the general one."""

OTHER_NAMES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_length": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "stop_sequences": "stop",
    "random_seed": "seed",
    "truncate": "truncate_prompt_tokens",
    "input": "messages",
    "inputs": "prompt",
    "thinking_budget": "thinking_token_budget",
    "thinking_budget_tokens": "thinking_token_budget",
    "max_thinking_tokens": "thinking_token_budget",
    "reasoning_budget": "thinking_token_budget",
    "reasoning_budget_tokens": "thinking_token_budget",
}
"""Names of other servers for supported fields."""


def unknown_field(name: str, known: Collection[str], where: str = "") -> RequestError:
    """The error about an unknown field, with the most similar known name."""
    near = OTHER_NAMES.get(name)
    if near not in known:
        near = next(iter(difflib.get_close_matches(name[:64], known, n=1, cutoff=0.75)), None)
    hint = "" if near is None else f"; did you mean {near}?"
    return RequestError(f"{where}{named(name)} is not a field that this server knows{hint}", param=name[:64])


def refused_field(name: str, value: Any) -> RequestError:
    """The error about a value of a field that is not supported."""
    reason = REASONS.get(name)
    if reason is None:
        options = [json.dumps(neutral) for neutral in NEUTRAL[name]]
        reason = f"{name} is not supported: leave it out{' or send ' + ' or '.join(options) if options else ''}"
    return RequestError(f"{reason}, got {shown(value)}", param=name)


def is_neutral(raw: msgspec.Raw, neutral: tuple[Any, ...]) -> bool:
    """Whether a short value is one of these, as in JSON: 1 equals 1.0 and not true."""
    try:
        value = msgspec.json.decode(raw)
    except msgspec.ValidationError:  # a number out of range of every type
        return False
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)
