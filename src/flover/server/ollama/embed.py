"""`/api/embed`, and its older form `/api/embeddings`: vectors of length 1."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Receive

from flover.config import Limits
from flover.server.app_state import AppState
from flover.server.embeddings import embed, shortened, unit_vector
from flover.server.generation import Generation
from flover.server.ollama.models import check_name
from flover.server.ollama.translate import OllamaEmbedBody, OllamaEmbeddingsBody
from flover.server.protocol import EmbeddingBody
from flover.server.responses import json_response

EmbedBody = OllamaEmbedBody | OllamaEmbeddingsBody


def read(body: EmbedBody, limits: Limits) -> tuple[EmbedBody, list[str]]:
    """A body and its texts."""
    texts = body.prompt if isinstance(body, OllamaEmbeddingsBody) else body.input
    return body, [texts] if isinstance(texts, str) and texts else [*(texts or [])]


async def create(state: AppState, asked: tuple[EmbedBody, list[str]], receive: Receive, key_salt: str) -> Response:
    """Respond to one request. Texts that are too long are cut at their end, unless `truncate` is off; no text has no
    vector, as with Ollama."""
    body, texts = asked
    model, began = check_name(state, body.model), time.monotonic()
    alone = isinstance(body, OllamaEmbeddingsBody)
    dimensions = None if isinstance(body, OllamaEmbeddingsBody) else body.dimensions
    if not texts:
        return json_response({"embedding": []} if alone else {"model": model, "embeddings": []})

    def write(generation: Generation) -> dict[str, Any]:
        vectors = [unit_vector(one.embedding or b"", dimensions).tolist() for one in generation.prompts]
        if alone:
            return {"embedding": vectors[0]}
        return {
            "model": model,
            "embeddings": vectors,
            "total_duration": int((time.monotonic() - began) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": generation.prompt_tokens,
        }

    tokenizer = state.need_tokenizer("input")
    wanted = EmbeddingBody(input=texts, dimensions=dimensions)
    whole = body.truncate is False if isinstance(body, OllamaEmbedBody) else False
    shorten = None if whole else partial(shortened, wanted, tokenizer, state.facts)
    return await embed(state, wanted, receive, key_salt, write, shorten)
