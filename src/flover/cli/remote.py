"""A running server as a partner for a chat. Knows the OpenAI API and nothing of models."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flover.errors import ConfigError, EngineError, RequestError
from flover.request import SamplingParams

_SENT = ("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_SENT_TOO = ("presence_penalty", "frequency_penalty", "stop", "ignore_eos")


class RemoteModel:
    """One server; `model` is the name to ask for, by default the first that it serves."""

    def __init__(self, url: str, api_key: str | None = None, model: str | None = None) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
            raise ConfigError(f"--url must begin with http:// or https://, got {url!r}")
        self._base = base
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._model = model or str(self._json("/v1/models")["data"][0]["id"])

    def chat(self, messages: Sequence[Mapping[str, str]], params: SamplingParams) -> Iterator[str]:
        """The answer to a conversation, in pieces. Only parameters that differ from vLLM's defaults are sent."""
        default = SamplingParams()
        body: dict[str, Any] = {"model": self._model, "messages": list(messages), "stream": True}
        for name in (*_SENT, *_SENT_TOO):
            if getattr(params, name) != getattr(default, name) and getattr(params, name) is not None:
                body[name] = getattr(params, name)
        with self._open("/v1/chat/completions", body) as response:
            for line in response:
                if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise EngineError(f"the server says: {event['error'].get('message')}")
                    for choice in event["choices"]:
                        yield choice["delta"].get("content") or ""

    def _json(self, path: str) -> Any:
        with self._open(path) as response:
            return json.loads(response.read())

    def _open(self, path: str, body: Any = None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, self._headers)
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as error:
            message = f"the server says {error.code}: {_message(error.read())}"
            raise (RequestError(message) if error.code == 400 else EngineError(message)) from error
        except OSError as error:
            raise EngineError(f"no answer from {self._base}: {error}") from error
        return response


def _message(body: bytes) -> str:
    """The message of an error's envelope, or the beginning of whatever else came."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
