"""From the name of a model to where it is: the bundled model, a directory, a GGUF file, or a download from the hub.

It imports no torch and reads no model file, because the door uses it too, to find the tokenizer.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path

from flover.config import BUNDLED_MODEL, EngineConfig
from flover.errors import ModelError
from flover.source import GGUF_SUFFIX

BUNDLED_PATH = Path(__file__).resolve().parent.parent / "assets" / BUNDLED_MODEL
"""Where the package keeps its own model."""

_SMALL_FILES = ["*.json", "*.jinja", "merges.txt", "tokenizer.model"]
_UNWANTED_FILES = ["consolidated*", "*/*"]  # the same weights again in another layout; subdirectories
HUB_SECONDS = 5.0
"""Time for the hub to say whether it has a model; a download takes as long as it takes."""

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


def locate_model(
    name: str, revision: str | None = None, download_dir: str | None = None, *, weights: bool = True
) -> Path:
    """The directory or the GGUF file of a model, downloaded first if it is a hub name.

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
    if not path.is_dir() and path.suffix != GGUF_SUFFIX:
        raise ModelError(
            f"{name} is a file; a model is a directory with config.json and safetensors files, or a {GGUF_SUFFIX} file"
        )
    return path


def _download(name: str, revision: str | None, download_dir: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import HfApi, snapshot_download  # slow to import, and only hub names need it
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(*, cached: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=download_dir,
                allow_patterns=patterns,
                ignore_patterns=_UNWANTED_FILES,
                local_files_only=cached,
            )
        )

    missing = f"there is no directory {name}, and "
    at = f" at revision {revision}" if revision else ""
    logger.info("looking for %s on the hub", name)
    unreachable = _failure(lambda: HfApi().model_info(name, revision=revision, timeout=HUB_SECONDS), HUB_SECONDS)
    if isinstance(unreachable, GatedRepoError):
        raise ModelError(f"{name} is on the hub, but asks who you are: accept its terms there and set HF_TOKEN")
    if isinstance(unreachable, RepositoryNotFoundError | RevisionNotFoundError):
        raise ModelError(f"{missing}the hub has no model {name}{at} (or it is private: set HF_TOKEN)")
    try:
        if unreachable is None:
            logger.info("fetching %s from the hub", name)
            return fetch(cached=False)
        found = fetch(cached=True)
    except (HfHubHTTPError, OSError, ValueError) as error:
        if unreachable is None:
            raise ModelError(f"{name}{at} could not be fetched from the hub: {_first_line(error)}") from error
        cache = "not there" if isinstance(error, LocalEntryNotFoundError) else _first_line(error)
        raise ModelError(
            f"{missing}the hub cannot be reached to fetch {name}{at}: {_first_line(unreachable)} (in the cache: "
            f"{cache}). Check the name or the connection, or give a directory"
        ) from error
    logger.warning("the hub cannot be reached: %s is taken as it is in the cache", name)
    return found


def _failure(ask: Callable[[], object], seconds: float) -> Exception | None:
    """What `ask` raises, within about so many seconds: looking up a name on a dead network takes longer than any
    timeout of the client that asks. None if all is well."""
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            ask()
            outcome.put(None)
        except Exception as error:
            outcome.put(error)

    threading.Thread(target=run, name="hub", daemon=True).start()
    try:
        return outcome.get(timeout=seconds + 1)
    except queue.Empty:
        return TimeoutError(f"no answer in {seconds:g} seconds")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
