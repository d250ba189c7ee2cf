"""`POST /v1/embeddings`: a vector of length 1 for each text.

A text is a request that only prefills: its chunks join the iterations of those that generate, and it leaves at the end
of its prompt. The one token that is sampled there is dropped.
"""

from __future__ import annotations

import base64
import math
import uuid
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.types import Receive

from flover.errors import RequestError
from flover.files import read_optional_object
from flover.request import GREEDY, ModelFacts, SamplingParams, max_total_tokens
from flover.sampling_checks import ALL, RANGES, check_number
from flover.server.app_state import AppState
from flover.server.errors import ClientGone
from flover.server.generation import Generation
from flover.server.protocol import EmbeddingBody, GenerationBody, Prompts
from flover.server.request_log import WithGeneration
from flover.server.responses import json_response
from flover.server.sse import CLIENT_LEFT, until_disconnect
from flover.text.prompts import encode_text
from flover.text.tokenizer import Tokenizer

POOLING_FILE = "1_Pooling/config.json"
"""What sentence-transformers writes beside an embedding model."""
_MODES = {"pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}

MIN_LENGTH = 1e-12
"""Shorter vectors are divided by this, as in torch."""


def read_pooling(model: Path) -> str | None:
    """How the model in this folder makes one vector of a prompt's; None if it is no embedding model, or does it in
    another way. Raises `ModelError` for a file that is no JSON object."""
    settings = read_optional_object(model / POOLING_FILE) if model.is_dir() else {}
    found = [kind for name, kind in _MODES.items() if settings.get(name) is True]
    others = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    return found[0] if len(found) == len(others) == 1 else None


async def create_embeddings(state: AppState, body: EmbeddingBody, receive: Receive, key_salt: str) -> Response:
    """Respond to one request."""
    model, most = state.check_model(body.model), body.truncate_prompt_tokens
    shorten = None
    if most is not None:
        check_number("truncate_prompt_tokens", most, RANGES["truncate_prompt_tokens"])
        shorten = partial(shortened, body, state.tokenizer, state.facts)
    return await embed(state, body, receive, key_salt, lambda found: _whole(found, body, model), shorten)


def shortened(body: EmbeddingBody, tokenizer: Tokenizer | None, facts: ModelFacts) -> Prompts:
    """The beginnings of the texts of a body, of `truncate_prompt_tokens` at most, and with the special token that the
    tokenizer puts at the end of a text; -1 is as many as fit."""
    most, wanted = max_total_tokens(facts) - 1, body.truncate_prompt_tokens
    if wanted is not None and wanted != ALL:
        most = min(most, wanted)

    def beginning(text: str | list[int]) -> list[int]:
        if not isinstance(text, str):
            return text[:most]
        if tokenizer is None:
            raise RequestError("input is text, but no tokenizer is loaded: give token ids", param="input")
        ids = encode_text(text, tokenizer, facts, add_special_tokens=body.add_special_tokens is not False, cut=True)
        if len(ids) <= most:
            return ids
        end = ids[-1:] if tokenizer.is_special(ids[-1]) else []
        return ids[: most - len(end)] + end

    return [beginning(text) for text in body.input]


async def embed(
    state: AppState,
    body: EmbeddingBody,
    receive: Receive,
    key_salt: str,
    write: Callable[[Generation], Any],
    make_prompts: Callable[[], Prompts] | None = None,
) -> Response:
    """Submit the texts of a body, or what `make_prompts` makes beside the event loop, and respond with what `write`
    makes of their vectors."""
    state.ready_supervisor()
    model = state.model_names[0]
    if state.pooling is None:
        raise RequestError(
            f"{model} is not an embedding model: it has no {POOLING_FILE} that asks for the last token or the mean "
            "(--pooling-type last or mean embeds with it all the same)",
            param="model",
        )
    most = state.facts.hidden_size
    if body.dimensions is not None and body.dimensions > most:
        raise RequestError(f"dimensions must be at most {most}, got {body.dimensions}", param="dimensions")
    params = SamplingParams(**GREEDY, max_tokens=1, detokenize=False, pooling=state.pooling)
    options = GenerationBody(model=body.model, max_tokens=1, priority=body.priority, deadline_ms=body.deadline_ms)

    async def embed() -> Response:
        generation = await state.generate(
            options,
            params,
            len(body.input),
            make_prompts or (lambda: body.input),
            name=f"embd-{uuid.uuid4().hex}",
            add_special_tokens=body.add_special_tokens is not False,
            key_salt=key_salt,
            num_chars=sum(len(text) for text in body.input if isinstance(text, str)),
        )
        try:
            await generation.finish()
            whole = await state.in_thread(lambda: write(generation), _num_chars(generation))
            return WithGeneration(json_response(whole), generation)
        finally:
            generation.close()

    try:
        return await until_disconnect(receive, embed())
    except ClientGone:
        return Response(status_code=CLIENT_LEFT)
    except RequestError as error:
        param = "input" if error.param == "prompt" else error.param
        raise RequestError(error.message, param=param, code=error.code) from None


def _num_chars(generation: Generation) -> int:
    return sum(len(prompt.embedding or b"") for prompt in generation.prompts)


def _whole(generation: Generation, body: EmbeddingBody, model: str) -> dict[str, Any]:
    tokens = generation.prompt_tokens
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(prompt.embedding or b"", body)}
            for index, prompt in enumerate(generation.prompts)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def unit_vector(raw: bytes, dimensions: int | None) -> array[float]:
    """The first `dimensions` numbers of a vector, or all, scaled to length 1."""
    vector = array("f", raw)[:dimensions]
    length = max(math.hypot(*vector), MIN_LENGTH)
    return array("f", [number / length for number in vector])


def _encoded(raw: bytes, body: EmbeddingBody) -> str | list[float]:
    """A vector as the body asks for it."""
    unit = unit_vector(raw, body.dimensions)
    return base64.b64encode(unit.tobytes()).decode() if body.encoding_format == "base64" else unit.tolist()
