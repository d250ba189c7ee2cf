"""From the name of a model to where it is: the bundled model, a directory, a GGUF file, or a download from the hub.

It imports no torch and reads no model file, because the door uses it too, to find the tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from flover.config import BUNDLED_MODEL, EngineConfig
from flover.errors import ModelError, suggestion
from flover.hub.names import HubName, parse_hub_name
from flover.source import GGUF_SUFFIX

BUNDLED_PATH = Path(__file__).resolve().parent.parent / "assets" / BUNDLED_MODEL
"""Where the package keeps its own model."""


def locate_model(
    name: str,
    revision: str | None = None,
    download_dir: str | None = None,
    *,
    weights: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The directory or the GGUF file of a model, downloaded first if it is a hub name.

    Only safetensors, JSON, chat templates and tokenizer files, or the GGUF files that are named, are fetched; without
    `weights` no weights. Raises `ModelError` if there is no such model or the download fails.
    """
    found = _local(name)
    if found is not None:
        return found
    from flover.hub.fetch import fetch_model  # only hub names need it

    cache = None if download_dir is None else Path(download_dir)
    return fetch_model(_hub_name(name, revision), cache, progress or (lambda done, total: None), weights=weights)


def locate_tokenizer(config: EngineConfig) -> Path | None:
    """The directory of the tokenizer that `config` asks for; None if it asks for none. Raises `ModelError`."""
    if config.skip_tokenizer_init:
        return None
    if config.tokenizer is None or config.tokenizer == config.model:
        return locate_model(config.model, config.revision, config.download_dir, weights=False)
    return locate_model(config.tokenizer, None, config.download_dir, weights=False)


def hub_name(name: str, revision: str | None = None) -> HubName | None:
    """The name of a model on a hub; None for one that is on this machine. Raises `ModelError` for what is neither."""
    return None if _local(name) is not None else _hub_name(name, revision)


def _local(name: str) -> Path | None:
    """The bundled model, or the directory or GGUF file of this name. Raises `ModelError` if there is something else."""
    if name == BUNDLED_MODEL:
        if not BUNDLED_PATH.is_dir():
            raise ModelError(f"the bundled model is not in this installation: {BUNDLED_PATH} is missing")
        return BUNDLED_PATH
    try:
        path = Path(name).expanduser()
        if not name or not path.exists():
            return None
    except (OSError, RuntimeError, ValueError):  # a name that no file can have
        return None
    if not path.is_dir() and path.suffix != GGUF_SUFFIX:
        raise ModelError(
            f"{name} is a file; a model is a directory with config.json and safetensors files, or a {GGUF_SUFFIX} file"
        )
    return path


def _hub_name(name: str, revision: str | None) -> HubName:
    found = parse_hub_name(name)
    if found is None:
        what = "file or directory" if name.endswith(GGUF_SUFFIX) else "directory"
        near = suggestion(name, _beside(name)) or "."
        raise ModelError(
            f"there is no {what} {name[:300]}, and it is not a hub name (ORG/REPO, ORG/REPO:QUANTIZATION){near}"
        )
    if found.revision is not None and revision is not None and found.revision != revision:
        raise ModelError(f"{name} names a revision, and --revision is {revision}: give one of them")
    return dataclasses.replace(found, revision=found.revision or revision)


def _beside(name: str) -> list[str]:
    """The names of what is in the directory where `name` would be."""
    try:
        folder = Path(name).expanduser().parent
        return [str(path) for path in folder.iterdir()][:10_000]
    except (OSError, RuntimeError, ValueError):
        return []
