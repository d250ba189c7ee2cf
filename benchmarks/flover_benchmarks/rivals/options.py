"""Options of `flover bench rivals`."""

from __future__ import annotations

from dataclasses import dataclass

from flover.errors import ConfigError

GGUF_FORMATS = ("q8_0", "q4_0", "q4_k_m")
"""One GGUF file, which every engine that reads GGUF serves as it is."""
FORMATS = ("float32", "bfloat16", "float16", "int8", "int4", *GGUF_FORMATS)
"""Formats of Flover's weights; each rival runs its nearest format."""
RIVALS = ("llama.cpp", "ik_llama.cpp", "openvino", "onnxruntime", "ctranslate2", "vllm", "transformers")
FLOVER = "flover"
FIRST_TOKEN_OUTPUT = 8
"""Output tokens of the request for time to first token."""


@dataclass(frozen=True, slots=True)
class RivalLoad:
    """Requests sent at once; lengths in tokens. `first_token`: its latency is measured instead of throughput."""

    num_requests: int
    prompt_len: int
    output_len: int
    first_token: bool = False

    @property
    def label(self) -> str:
        """The name in the table."""
        return f"TTFT of {self.prompt_len}" if self.first_token else f"n = {self.num_requests}"

    @property
    def key(self) -> str:
        """The name in `--wanted`."""
        return "ttft" if self.first_token else str(self.num_requests)

    @property
    def context(self) -> int:
        """Tokens of one request, prompt and output."""
        return self.prompt_len + self.output_len


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalOptions:
    """What to measure, with which rivals, and how often. A first-token prompt of 0 tokens is not measured."""

    formats: tuple[str, ...] = ("bfloat16", "int8", "int4")
    concurrency: tuple[int, ...] = (1, 8, 32)
    prompt_len: int = 64
    output_len: int = 64
    ttft_prompt_len: int = 512
    seeds: int = 3
    only: tuple[str, ...] = RIVALS
    patience: float = 600.0
    """Timeout in seconds for the start of a server, and for a request."""

    def __post_init__(self) -> None:
        for name in ("prompt_len", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.output_len < 2:
            raise ConfigError(f"--output-len must be at least 2, got {self.output_len}")
        if min(self.concurrency) < 1:
            raise ConfigError(f"--concurrency must be at least 1, got {min(self.concurrency)}")
        if not self.patience > 0:
            raise ConfigError(f"--patience must be more than 0, got {self.patience:g}")
        for name in self.only:
            if name not in RIVALS:
                raise ConfigError(f"--only knows {', '.join(RIVALS)}, got {name!r}")

    @property
    def loads(self) -> tuple[RivalLoad, ...]:
        """The loads measured for each format, in the order of the table."""
        rows = [RivalLoad(count, self.prompt_len, self.output_len) for count in self.concurrency]
        if self.ttft_prompt_len:
            rows.append(RivalLoad(1, self.ttft_prompt_len, FIRST_TOKEN_OUTPUT, first_token=True))
        return tuple(rows)


def parse_wanted(arguments: tuple[str, ...], options: RivalOptions) -> dict[tuple[str, str], float]:
    """Target ratios by format and load, from arguments such as int8:32=2.0 or int4:ttft=0.7.

    Raises `ConfigError` for a load that is not measured or a ratio that is not a number.
    """
    known = {(kind, load.key) for kind in options.formats for load in options.loads}
    wanted: dict[tuple[str, str], float] = {}
    for argument in arguments:
        where, equals, value = argument.partition("=")
        kind, _, load = where.partition(":")
        try:
            ratio = float(value)
        except ValueError:
            ratio = 0.0
        if not equals or not 0 < ratio < float("inf"):
            raise ConfigError(
                f"--wanted takes FORMAT:LOAD=RATIO such as int8:32=2.0 or int4:ttft=0.7, got {argument!r}"
            )
        if (kind, load) not in known:
            raise ConfigError(f"--wanted names {where}, which is not measured")
        wanted[kind, load] = ratio
    return wanted
