"""Reads a model's generation config: end-of-sequence tokens and default sampling parameters.

Engine, server and `LLM` all use this file, so that they agree. The files are untrusted: an invalid value is a
`ModelError` that names file and field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flover.errors import ModelError, RequestError
from flover.files import shown
from flover.request import SamplingParams
from flover.sampling_checks import PARAMETERS
from flover.source import ModelSource
from flover.source.sentencepiece_file import FILE as SENTENCEPIECE
from flover.source.sentencepiece_file import read_sentencepiece

FILE = "generation_config.json"
MAX_TOKENIZER_BYTES = 256 * 2**20
COMPLETION_MAX_TOKENS = 16
"""Default `max_tokens` of a text completion, as in OpenAI's API and vLLM."""

SamplingDefaults = Mapping[str, float | int]
"""Default sampling parameters of a model, under the names of `SamplingParams`."""

_RECOMMENDED = {known.recommended: name for name, known in PARAMETERS.items() if known.recommended}
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (True,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0, 0.0),
    "max_length": (20,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1, 1.0),
    "encoder_no_repeat_ngram_size": (0,),
    "typical_p": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "top_h": (),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "stop_strings": ([],),
    "guidance_scale": (1, 1.0),
    "constraints": ([],),
    "force_words_ids": ([],),
    "dola_layers": (),
    "watermarking_config": (),
}
"""Fields of transformers' generation config that would change its outputs and are not used here, and their neutral
values."""


def read_sampling_defaults(source: ModelSource) -> dict[str, float | int]:
    """Sampling parameters that generation_config.json recommends; `max_new_tokens` is called `max_tokens` here.

    Raises `ModelError` for a value that no request could have: every request that leaves the field out would fail.
    """
    found: dict[str, float | int] = {}
    generation = source.document(FILE)
    for theirs, ours in _RECOMMENDED.items():
        value = generation.get(theirs)
        if value is None:
            continue
        try:
            SamplingParams(**{ours: value})
        except RequestError as error:
            message = error.message.replace(ours, theirs)
            raise ModelError(
                f"{source.where(FILE)}: {message if len(message) < 300 else message[:300] + '…'}"
            ) from error
        found[ours] = value
    return found


def ignored_fields(source: ModelSource) -> list[str]:
    """Fields of generation_config.json that change outputs in transformers but not here."""
    generation = source.document(FILE)
    return [
        name
        for name, neutral in _WITHOUT_EFFECT.items()
        if generation.get(name) is not None and not any(generation[name] == value for value in neutral)
    ]


def default_max_tokens(defaults: SamplingDefaults, *, chat: bool) -> int | None:
    """The default of `max_tokens`: the model's, else 16 for a completion and as many as fit (None) for a chat. The
    model's is reduced to what fits (`make_request`)."""
    recommended = defaults.get("max_tokens")
    if recommended is not None:
        return int(recommended)
    return None if chat else COMPLETION_MAX_TOKENS


def default_params(defaults: SamplingDefaults, *, chat: bool) -> SamplingParams:
    """The parameters of a request without any."""
    fields: dict[str, Any] = {**defaults, "max_tokens": default_max_tokens(defaults, chat=chat)}
    return SamplingParams(**fields)


def read_eos_ids(source: ModelSource, tokenizer: ModelSource | None, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end a sequence: those of config.json, of generation_config.json and of the tokenizer together.

    Ids outside the vocabulary can never be generated and are left out: small test models keep GPT-2's default.
    `tokenizer` is None where no tokenizer is loaded. Raises `ModelError`.
    """
    ids: list[int] = []
    for name in ("config.json", FILE):
        ids += token_ids(source.document(name).get("eos_token_id"), f"{source.where(name)}: eos_token_id")
    if tokenizer is not None:
        ids += _tokenizer_eos(tokenizer)
    return tuple(dict.fromkeys(token for token in ids if 0 <= token < vocab_size))


def token_ids(value: Any, where: str) -> list[int]:
    """A token id or a list of them as a list; null is an empty one. Raises `ModelError`."""
    items = value if isinstance(value, list) else [value]
    items = [item for item in items if item is not None]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        raise ModelError(f"{where} must be a token id or a list of them, got {shown(value)}")
    return items


def token_text(value: Any) -> str | None:
    """The text of a special token, given as text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _tokenizer_eos(source: ModelSource) -> list[int]:
    """The id of the tokenizer's `eos_token`. Its text is in the small files; the id often only in tokenizer.json."""
    config = source.document("tokenizer_config.json")
    text = token_text(config.get("eos_token"))
    if text is None:
        text = token_text(source.document("special_tokens_map.json").get("eos_token"))
    if text is None:
        return []
    added = config.get("added_tokens_decoder")
    if isinstance(added, dict):
        for token, entry in added.items():
            if token_text(entry) == text and token.isascii() and token.isdigit() and len(token) < 11:
                return [int(token)]
    if source.has("tokenizer.json"):
        return _vocabulary_id(source.document("tokenizer.json", MAX_TOKENIZER_BYTES), text)
    for name in ("added_tokens.json", "vocab.json"):
        found = source.document(name, MAX_TOKENIZER_BYTES).get(text)
        if type(found) is int:
            return [found]
    raw = source.data(SENTENCEPIECE, MAX_TOKENIZER_BYTES)
    texts = [] if raw is None else read_sentencepiece(raw, source.where(SENTENCEPIECE)).texts
    return [texts.index(text)] if text in texts else []


def _vocabulary_id(tokenizer: Mapping[str, Any], text: str) -> list[int]:
    added = tokenizer.get("added_tokens")
    for entry in added if isinstance(added, list) else []:
        if token_text(entry) == text and isinstance(entry.get("id"), int):
            return [entry["id"]]
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict) and isinstance(vocabulary.get(text), int):
        return [vocabulary[text]]
    if isinstance(vocabulary, list):  # Unigram: [text, score], in the order of ids
        return [index for index, entry in enumerate(vocabulary) if isinstance(entry, list) and entry[:1] == [text]][:1]
    return []
