"""A client of an OpenAI-compatible server for `flover chat`."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from flover.bench.connection import unreachable
from flover.cli.address import server_address
from flover.cli.sampling import FLAGS
from flover.errors import ConfigError, EngineError, RequestError
from flover.request import SamplingParams

_SENT = (*FLAGS, "stop", "ignore_eos")
_REFUSALS = range(400, 500)
"""Status codes that report an error of the request."""


class RemoteModel:
    """A client of one server; `model` is the requested model, by default the first that it serves.

    Raises `ConfigError` for a wrong address or key, `EngineError` if the server cannot be reached.
    """

    def __init__(self, url: str, api_key: str | None = None, model: str | None = None) -> None:
        self._base = server_address(url, "--url")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            if not api_key.isascii() or not api_key.isprintable():
                raise ConfigError("the API key has characters that no HTTP header may have")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._model = model or self._first_model()

    def chat(
        self, messages: Sequence[Mapping[str, str]], params: SamplingParams
    ) -> Generator[tuple[str, int], None, None]:
        """The answer to a conversation, in pieces of text with the number of tokens that the server reports.

        Only parameters that differ from vLLM's defaults are sent. Raises `RequestError` with the server's message.
        """
        default = SamplingParams()
        body: dict[str, Any] = {"model": self._model, "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        for name in _SENT:
            if getattr(params, name) != getattr(default, name) and getattr(params, name) is not None:
                body[name] = getattr(params, name)
        ended = False
        try:
            with self._open("/v1/chat/completions", body) as response:
                for line in response:
                    if not line.startswith(b"data:"):
                        continue
                    if line[5:].strip() == b"[DONE]":
                        ended = True
                        continue
                    text, tokens, last = self._read(line[5:])
                    ended |= last
                    yield text, tokens
        except (http.client.HTTPException, OSError) as error:
            raise EngineError(unreachable(self._base, error)) from error
        if not ended:
            raise EngineError(f"the response from {self._base} broke off")

    def _read(self, content: bytes) -> tuple[str, int, bool]:
        """Text, number of tokens, and whether this event ends the response."""
        try:
            event = json.loads(content)
            if event.get("error"):
                raise EngineError(f"the server says: {_message(content)}")
            usage = event.get("usage") or {}
            text = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
            last = any(choice.get("finish_reason") for choice in event.get("choices", ()))
            return text, int(usage.get("completion_tokens") or 0), last
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineError(f"an event from {self._base} is not as OpenAI's: {content[:100]!r}") from error

    def _first_model(self) -> str:
        with self._open("/v1/models") as response:
            body = response.read()
        try:
            return str(json.loads(body)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise EngineError(f"{self._base}/v1/models names no model: is it an OpenAI-compatible server?") from error

    def _open(self, path: str, body: Any = None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self._base + path, data, self._headers)
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as error:
            message = f"the server says {error.code}: {_message(error.read())}"
            raise (RequestError(message) if error.code in _REFUSALS else EngineError(message)) from error
        except http.client.InvalidURL as error:
            raise ConfigError(f"--url {self._base}: {error}") from error
        except (http.client.HTTPException, OSError) as error:
            raise EngineError(unreachable(self._base, error)) from error
        return response


def _message(body: bytes) -> str:
    """The message of an error response, or the start of the body if it is not one."""
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
