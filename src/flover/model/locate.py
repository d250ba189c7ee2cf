"""From the name of a model to a local directory: the bundled model, a directory, or a download from the hub.

It imports no torch and reads no model file, because the door uses it too, to find the tokenizer.
"""

from __future__ import annotations

import re
from pathlib import Path

from flover.config import BUNDLED_MODEL, EngineConfig
from flover.errors import ModelError

BUNDLED_PATH = Path(__file__).resolve().parent.parent / "assets" / BUNDLED_MODEL
"""Where the package keeps its own model."""

_SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model"]
_UNWANTED_FILES = ["consolidated*", "*/*"]  # the same weights again in another layout; subdirectories
_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def locate_model(
    name: str, revision: str | None = None, download_dir: str | None = None, *, weights: bool = True
) -> Path:
    """The directory of a model, downloaded first if it is a hub name.

    Only safetensors, JSON, chat templates and tokenizer files are fetched, `weights` or not. Raises `ModelError`
    if there is no such directory or the download fails.
    """
    if name == BUNDLED_MODEL:
        if not BUNDLED_PATH.is_dir():
            raise ModelError(f"the bundled model is not in this installation: {BUNDLED_PATH} is missing")
        return BUNDLED_PATH
    path = _local(name)
    if path is not None:
        return path
    if not _HUB_NAME.fullmatch(name) or name.startswith((".", "-", "/")) or ".." in name:
        raise ModelError(f"there is no directory {name[:300]}, and it is not a hub name (owner/model)")
    return _download(name, revision, download_dir, ["*.safetensors", *_SMALL_FILES] if weights else _SMALL_FILES)


def locate_tokenizer(config: EngineConfig) -> Path | None:
    """The directory of the tokenizer that `config` asks for; None if it asks for none. Raises `ModelError`."""
    if config.skip_tokenizer_init:
        return None
    if config.tokenizer is None or config.tokenizer == config.model:
        return locate_model(config.model, config.revision, config.download_dir, weights=False)
    return locate_model(config.tokenizer, None, config.download_dir, weights=False)


def _local(name: str) -> Path | None:
    """The directory of this name. Raises `ModelError` if there is something else."""
    try:
        path = Path(name).expanduser()
        if not name or not path.exists():
            return None
    except (OSError, RuntimeError, ValueError):  # a name that no file can have
        return None
    if not path.is_dir():
        raise ModelError(f"{name} is a file; a model is a directory with config.json and safetensors files")
    return path


def _download(name: str, revision: str | None, download_dir: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and only hub names need it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=download_dir,
                allow_patterns=patterns,
                ignore_patterns=_UNWANTED_FILES,
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"there is no directory {name}, and it could not be fetched from the hub{at}: {error}"
        ) from error
