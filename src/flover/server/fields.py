"""What is accepted in a request's body without being honoured: one rule, as data.

Every field of a body is one of these. *Honoured*: a field of the types in `protocol.py`. *Information*: it says
something about the request, and no answer depends on it; any value is accepted. *Neutral*: Flover does not do what
it asks for, and accepts the values that ask for nothing. *Unknown*: refused by name. Null is the same as not sent,
for every field. With `--strict` only what the bodies of OpenAI's own clients carry by default is accepted.

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
"""Longest value of a field that is only information, as it is written in the body."""
MAX_NEUTRAL_BYTES = 256
"""No neutral value is longer."""

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
        "rid",
        "session_id",
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
"""Only information; also the parameters of samplers that are off, since their switches are neutral below."""

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
    "structured_outputs": ({},),
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
    "options": ({},),
}
"""Fields that would change the answer, and the values with which they do not."""

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
"""What `--strict` accepts of the above; a type where it wants one."""

REASONS: Mapping[str, str] = {
    "functions": "functions are not supported yet",
    "modalities": 'only text is supported: leave modalities out or send ["text"]',
    "chat_template": "a template in a request is not supported: the operator can give one with --chat-template",
    "suffix": "filling in before a suffix is not supported",
    "repeat_penalty": "repeat_penalty is called repetition_penalty here",
    "min_new_tokens": "min_new_tokens is called min_tokens here",
}
"""Why a value of a neutral field is refused, where the general sentence says too little."""

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
    "enable_thinking": "chat_template_kwargs",
}
"""What other servers call fields that there are here."""


def unknown_field(name: str, known: Collection[str], where: str = "") -> RequestError:
    """The error about a field that nothing is known of, with the nearest name that there is."""
    near = OTHER_NAMES.get(name)
    if near not in known:
        near = next(iter(difflib.get_close_matches(name[:64], known, n=1, cutoff=0.75)), None)
    hint = "" if near is None else f"; did you mean {near}?"
    return RequestError(f"{where}{named(name)} is not a field that this server knows{hint}", param=name[:64])


def refused_field(name: str, value: Any) -> RequestError:
    """The error about a field that is known, and not honoured at this value."""
    reason = REASONS.get(name)
    if reason is None:
        options = [json.dumps(neutral) for neutral in NEUTRAL[name]]
        reason = f"{name} is not supported: leave it out{' or send ' + ' or '.join(options) if options else ''}"
    return RequestError(f"{reason}, got {shown(value)}", param=name)


def is_neutral(raw: msgspec.Raw, neutral: tuple[Any, ...]) -> bool:
    """Whether a short value is one of these, as JSON has it: 1 is 1.0 and not true."""
    try:
        value = msgspec.json.decode(raw)
    except msgspec.ValidationError:  # a number that no type holds
        return False
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral)
