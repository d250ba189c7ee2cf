"""Options of serving benchmarks. Imports little, because every command line loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flover.bench.serving.datasets import (
    CustomFile,
    Dataset,
    PrefixRepetition,
    RandomPrompts,
    SharedPrefix,
    TimedTrace,
)
from flover.bench.serving.options import ResultOptions, Sampling, ServerOptions, Traffic
from flover.config import flag_name, setting
from flover.errors import ConfigError

DATASETS: dict[str, type[Any]] = {
    "random": RandomPrompts,
    "prefix_repetition": PrefixRepetition,
    "generated-shared-prefix": SharedPrefix,
    "custom": CustomFile,
    "timed_trace": TimedTrace,
}
"""Data sets by name."""
DOWNLOADED = ("sharegpt", "sonnet", "burstgpt", "hf", "spec_bench", "mooncake")
FROM_FILE = ("custom", "timed_trace")
NUM_PROMPTS = 1000
"""The default of --num-prompts."""
_DATA = "data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Settings of all data sets."""

    dataset_name: str = setting("random", f"where prompts come from: {', '.join(DATASETS)}", group=_DATA)
    dataset_path: str | None = setting(None, "JSONL file of custom and timed_trace", group=_DATA)
    num_prompts: int | None = setting(
        None, f"requests (default: {NUM_PROMPTS}, or the groups of generated-shared-prefix)", group=_DATA
    )
    seed: int = setting(0, "seed of prompts, lengths, order and arrivals", group=_DATA)
    tokenizer: str | None = setting(
        None, "directory or hub name; needed for chats of generated prompts, which else are token ids", group=_DATA
    )
    input_len: int | None = setting(None, "the same as --random-input-len", group=_DATA)
    output_len: int | None = setting(None, "output tokens, for every data set", group=_DATA)
    disable_shuffle: bool = setting(False, "keep the order of a custom file", group=_DATA)
    oversample: bool = setting(True, "repeat a custom file that is too short", group=_DATA)
    self_timed: bool | None = setting(
        None, "requests go out at the times of the trace; on by default for timed_trace", group=_DATA
    )

    def __post_init__(self) -> None:
        name = self.dataset_name
        if name in DOWNLOADED:
            raise ConfigError(
                f"--dataset-name {name} would have to be downloaded; make a file with a prompt in each line of it and "
                "use --dataset-name custom --dataset-path FILE"
            )
        if name not in DATASETS:
            raise ConfigError(f"--dataset-name must be one of {', '.join(DATASETS)}, got {name!r}")
        if (self.dataset_path is None) == (name in FROM_FILE):
            need = "needs" if name in FROM_FILE else "does not take"
            raise ConfigError(f"--dataset-name {name} {need} --dataset-path")
        if self.self_timed is not None and name != "timed_trace":
            raise ConfigError("--self-timed is for --dataset-name timed_trace")
        if self.num_prompts is not None and self.num_prompts < 1:
            raise ConfigError(f"--num-prompts must be at least 1, got {self.num_prompts}")
        if self.input_len is not None and name != "random":
            raise ConfigError(f"--input-len is for --dataset-name random; {name} has flags of its own")
        if self.output_len is not None and name == "timed_trace":
            raise ConfigError("--output-len is not for timed_trace, which says how long its outputs are")

    @property
    def keeps_time(self) -> bool:
        """Whether requests are sent at the data set's own times."""
        return self.dataset_name == "timed_trace" and self.self_timed is not False

    @property
    def is_made(self) -> bool:
        """Whether prompts are random, so that an end of sequence has no meaning."""
        return self.dataset_name != "custom"


_OUTPUT_LEN = {
    "random": "random_output_len",
    "prefix_repetition": "prefix_repetition_output_len",
    "generated-shared-prefix": "gsp_output_len",
    "custom": "custom_output_len",
}


def choose_dataset(data: Data, own: dict[str, Any]) -> Dataset:
    """The data set with its settings. Raises `ConfigError` for settings of another one."""
    kind = DATASETS[data.dataset_name]
    fields = set(kind.__dataclass_fields__)
    if wrong := sorted(set(own) - fields):
        raise ConfigError(f"{flag_name(wrong[0])} is not for --dataset-name {data.dataset_name}")
    general = {"random_input_len": data.input_len, _OUTPUT_LEN.get(data.dataset_name, ""): data.output_len}
    for name, value in general.items():
        if value is not None and own.setdefault(name, value) != value:
            raise ConfigError(f"{flag_name(name)} is {own[name]}, but the general flag says {value}")
    dataset: Dataset = kind(**own)
    return dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """All options of `bench serve`."""

    target: ServerOptions
    data: Data
    dataset: Dataset
    traffic: Traffic
    sampling: Sampling
    results: ResultOptions
    asked: frozenset[str] = frozenset()
    """Settings of the data set that were given."""

    def __post_init__(self) -> None:
        paced = self.traffic.request_rate != float("inf") or self.traffic.ramp_up_strategy is not None
        if self.data.keeps_time and paced:
            raise ConfigError("the trace says when its requests go out: a rate needs --no-self-timed")
