"""Limits on connections and requests: sizes, numbers and times, each with a default.

A request beyond a limit is refused early, with an error that names the field, the limit and its flag.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from flover.config.setting import at_least, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a server. Each is at least 1."""

    # Connections
    max_connections: int = setting(
        1024, "connections at once; further ones get answers only on /livez, /readyz and /health", group="limits"
    )
    max_header_bytes: int = setting(
        64 * 2**10, "request line and headers of one request; more get a 431", group="limits"
    )
    max_url_bytes: int = setting(8 * 2**10, "path and query of one request; longer ones get a 414", group="limits")
    max_header_count: int = setting(128, "header lines of one request; more get a 431", group="limits")
    header_timeout: float = setting(
        10.0, "seconds for a TLS handshake, and to receive the request line and headers", group="limits"
    )
    max_body_bytes: int = setting(2 * 2**20, "body of one request; a longer one gets a 413", group="limits")
    max_pending_body_bytes: int = setting(
        64 * 2**20, "bodies of all requests that are still being received; more get a 503", group="limits"
    )
    body_timeout: float = setting(60.0, "seconds to receive the body; a slower one gets a 408", group="limits")
    timeout_keep_alive: float = setting(15.0, "seconds that an idle connection is kept", group="limits")
    send_timeout: float = setting(60.0, "seconds that a client may leave a response unread", group="limits")

    # Bodies
    max_json_depth: int = setting(64, "nesting depth of objects and lists in a body", group="limits")
    max_json_values: int = setting(150_000, "values in a body: numbers, strings, lists, objects", group="limits")
    max_messages: int = setting(1024, "messages of one conversation", group="limits")
    max_request_seqs: int = setting(128, "sequences of one request: its prompts times n", group="limits")

    max_open_seqs: int = setting(
        4096, "sequences of all requests that are open at once; more get a 429", group="limits"
    )

    # Files and batches
    max_file_bytes: int = setting(100 * 2**20, "one uploaded file; a longer one gets a 413", group="limits")
    max_stored_bytes: int = setting(
        2**30, "files of all batches, answers included; beyond it uploads get a 413 and batches fail", group="limits"
    )
    max_batch_requests: int = setting(50_000, "requests of one batch", group="limits")

    # Log-probabilities
    max_logprobs_values: int = setting(
        2**20, "log-probabilities of one response: its tokens times (logprobs + 1)", group="limits"
    )
    max_prompt_logprobs_values: int = setting(
        2**17, "log-probabilities of one prompt: its tokens times (prompt_logprobs + 1)", group="limits"
    )

    # Strings that generated text is searched for
    max_stop_strings: int = setting(16, "stop strings of one request", group="limits")
    max_stop_bytes: int = setting(1024, "one stop string, in UTF-8", group="limits")
    max_bad_words: int = setting(64, "bad words of one request", group="limits")
    max_bad_word_bytes: int = setting(1024, "one bad word, in UTF-8", group="limits")

    def __post_init__(self) -> None:
        for item in fields(self):
            at_least(self, item.name, 0.001 if item.type == "float" else 1)
