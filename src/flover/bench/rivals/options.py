"""What `flover bench rivals` can be asked for. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from flover.errors import ConfigError

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4")
"""Formats of Flover's weights; each rival runs what it has nearest to them."""
RIVALS = ("llama.cpp", "openvino", "vllm", "transformers")
FLOVER = "flover"
FIRST_TOKEN_OUTPUT = 8
"""Tokens that a request for the time to the first token generates: enough to see that it goes on."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests that go out at once; lengths in tokens. `first_token`: the time to it counts, not the throughput."""

    num_requests: int
    prompt_len: int
    output_len: int
    first_token: bool = False

    @property
    def label(self) -> str:
        """What the table calls it."""
        return f"TTFT of {self.prompt_len}" if self.first_token else f"n = {self.num_requests}"

    @property
    def key(self) -> str:
        """What `--wanted` calls it."""
        return "ttft" if self.first_token else str(self.num_requests)

    @property
    def context(self) -> int:
        """Tokens of one request, prompt and output."""
        return self.prompt_len + self.output_len


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalOptions:
    """What to measure, with whom, how often. A first-token prompt of 0 tokens is not measured."""

    formats: tuple[str, ...] = ("bfloat16", "int8", "int4")
    concurrency: tuple[int, ...] = (1, 8, 32)
    prompt_len: int = 64
    output_len: int = 64
    ttft_prompt_len: int = 512
    seeds: int = 3
    only: tuple[str, ...] = RIVALS
    patience: float = 600.0
    """Seconds for a server to be ready, and for a request to be answered."""

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
    def loads(self) -> tuple[Load, ...]:
        """Everything that is measured of one format, in the order of the table."""
        rows = [Load(count, self.prompt_len, self.output_len) for count in self.concurrency]
        if self.ttft_prompt_len:
            rows.append(Load(1, self.ttft_prompt_len, FIRST_TOKEN_OUTPUT, first_token=True))
        return tuple(rows)


def parse_wanted(words: tuple[str, ...], options: RivalOptions) -> dict[tuple[str, str], float]:
    """Ratios that were asked for, by format and load, from words such as int8:32=2.0 or int4:ttft=0.7.

    Raises `ConfigError` for what is not measured or no number.
    """
    known = {(kind, load.key) for kind in options.formats for load in options.loads}
    wanted: dict[tuple[str, str], float] = {}
    for word in words:
        where, equals, value = word.partition("=")
        kind, _, load = where.partition(":")
        try:
            ratio = float(value)
        except ValueError:
            ratio = 0.0
        if not equals or not 0 < ratio < float("inf"):
            raise ConfigError(f"--wanted takes FORMAT:LOAD=RATIO such as int8:32=2.0 or int4:ttft=0.7, got {word!r}")
        if (kind, load) not in known:
            raise ConfigError(f"--wanted names {where}, which is not measured")
        wanted[kind, load] = ratio
    return wanted
