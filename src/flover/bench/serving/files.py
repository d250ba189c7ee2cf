"""Result files, named as in vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flover.bench.report import tidy
from flover.bench.serving.options import ResultOptions
from flover.bench.serving.report import Setup
from flover.errors import ConfigError


def result_path(results: ResultOptions, setup: Setup) -> Path:
    """The path of a result: the given name, or `{label}-{rate}qps-{model}-{time}.json`; the rate of a ramp is its two
    ends, and a concurrency limit comes before the model. Creates the directory."""
    traffic = setup.traffic
    rate = f"{traffic.request_rate}qps"
    if traffic.ramp_up_strategy is not None:
        ends = f"{traffic.ramp_up_start_rps}qps-{traffic.ramp_up_end_rps}qps"
        rate = f"ramp-up-{traffic.ramp_up_strategy}-{ends}"
    if traffic.max_concurrency is not None:
        rate += f"-concurrency{traffic.max_concurrency}"
    model = setup.model_id.rstrip("/").split("/")[-1]
    name = results.result_filename or f"{setup.label or setup.backend}-{rate}-{model}-{setup.date}.json"
    folder = Path(results.result_dir or ".").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--result-dir {folder}: {error.strerror or error}") from error
    return folder / name


def save(path: Path, result: dict[str, Any], *, append: bool) -> None:
    """Write the result as one line of JSON, appending to or replacing the file."""
    with path.open("a" if append else "w", encoding="utf-8") as file:
        file.write(json.dumps(tidy(result)) + "\n")
