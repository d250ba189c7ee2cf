"""The settings of the HTTP server: address, access, log."""

from __future__ import annotations

from dataclasses import dataclass, field

from flover.config.keys import KeyLimits, check_keys
from flover.config.limits import Limits
from flover.config.lora_modules import read_lora_modules
from flover.config.setting import at_least, check_choices, setting
from flover.errors import ConfigError

TOOL_CALL_PARSERS = (None, "functiongemma", "hermes", "llama3_json", "mistral", "openai", "pythonic", "qwen3_coder")
REASONING_PARSERS = (None, "deepseek_r1", "mistral", "none", "qwen3")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of one HTTP server."""

    host: str = setting("127.0.0.1", "address to listen on", group="server")
    port: int = setting(8000, "port to listen on; 0 picks a free one", group="server")
    served_model_name: tuple[str, ...] = setting(
        (), "names the API answers to; the model's own name by default", group="server"
    )
    api_key: tuple[str, ...] = setting(
        (), "keys, one of which clients must send as a bearer token; also read from FLOVER_API_KEY", group="server"
    )
    api_key_file: str | None = setting(
        None,
        "YAML file with further keys: a list of {key, weight, requests_per_minute, tokens_per_minute}; the device is "
        "shared among keys by weight, and a key beyond its rate gets a 429",
        group="server",
    )
    allow_unauthenticated: bool = setting(
        False,
        "accept clients on other machines without an API key, where --host is not a loopback address",
        group="server",
    )
    share_prefixes: bool = setting(False, "let requests with different keys share the prefix cache", group="server")
    ssl_certfile: str | None = setting(None, "PEM file with the certificates of TLS, for https", group="server")
    ssl_keyfile: str | None = setting(
        None, "PEM file with the private key of --ssl-certfile, if it is not in there", group="server"
    )
    allowed_hosts: tuple[str, ...] = setting(
        (), "Host headers to accept without an API key, beside this machine's names; * is any", group="server"
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "origins (https://name:port) of web pages that may use the API (CORS); * is any", group="server"
    )
    chat_template: str | None = setting(None, "file with a chat template to use instead of the model's", group="server")
    tool_call_parser: str | None = setting(
        None,
        "how the model writes tool calls, under vLLM's name; by default its chat template says it",
        group="server",
        choices=TOOL_CALL_PARSERS,
    )
    reasoning_parser: str | None = setting(
        None,
        "how the model marks its reasoning, under vLLM's name; by default its chat template says it; none leaves it in "
        "the content",
        group="server",
        choices=REASONING_PARSERS,
    )
    prepare_structured_outputs: bool = setting(
        True,
        "read the vocabulary for structured outputs at the start, not for the first request that has them, which holds "
        "others up: for 262,144 tokens 0.7 s, and 140 MB",
        group="server",
    )
    pooling_type: str | None = setting(
        None,
        "how /v1/embeddings makes one vector of a prompt's; by default the model's 1_Pooling/config.json says it, and "
        "other models embed nothing",
        group="server",
        choices=(None, "last", "mean"),
    )
    lora_modules: tuple[str, ...] = setting(
        (),
        'adapters to serve, as name=directory or {"name": "…", "path": "…"}: the name is that of a model in requests',
        group="lora",
    )
    allowed_lora_path: tuple[str, ...] = setting(
        (),
        "directories below which POST /v1/load_lora_adapter may load adapters; without any, loading and unloading at "
        "run time is off",
        group="lora",
    )
    strict: bool = setting(
        False, "refuse fields of a request that have no effect, instead of ignoring them", group="server"
    )
    max_num_queued_reqs: int = setting(1024, "open requests; more get a 429", group="server")
    shutdown_timeout: float = setting(30.0, "seconds that open requests get to finish after SIGTERM", group="server")
    stall_timeout: float = setting(
        600.0, "seconds without a message from an engine after which it is restarted; 0: never", group="server"
    )
    log_level: str = setting(
        "info", "least severe message to print", group="server", choices=("debug", "info", "warning", "error")
    )
    log_requests: bool = setting(True, "write a line for every request, at level info", group="server")
    log_stats: bool = setting(
        True, "write a line of throughput every 10 seconds while there is work, at level info", group="server"
    )
    usage_log: str | None = setting(
        None, "file to append a JSON line to for every request: tokens and times, no content", group="server"
    )
    batch_dir: str | None = setting(
        None,
        "directory for files and batches, with which unfinished batches go on after a restart; by default a temporary "
        "one, which goes with the server",
        group="server",
    )
    otlp_traces_endpoint: str | None = setting(
        None, "URL of a collector that takes OpenTelemetry spans of requests, as OTLP over HTTP", group="server"
    )
    metrics_prefix: str = setting(
        "flover",
        "prefix of metrics; vllm for the names that dashboards of vLLM read",
        group="server",
        choices=("flover", "vllm"),
    )

    key_limits: tuple[KeyLimits, ...] = ()
    """Limits of some of the keys, as read from `api_key_file`."""
    limits: Limits = field(default_factory=Limits)
    """Limits of requests, set by their own flags."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_keys(self.api_key)
        read_lora_modules(self.lora_modules)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port must be between 0 and 65535, got {self.port}")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ConfigError("--ssl-keyfile needs --ssl-certfile")
        at_least(self, "max_num_queued_reqs", 1)
        at_least(self, "shutdown_timeout", 0)
        at_least(self, "stall_timeout", 0)
