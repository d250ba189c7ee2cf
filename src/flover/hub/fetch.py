"""From the name of a model on a hub to its files on this machine, fetched or as they are in the cache."""

from __future__ import annotations

import logging
from pathlib import Path

from flover.config import BUNDLED_MODEL
from flover.errors import ModelError, suggestion
from flover.hub.cache import cached_folder, cached_models, files_of
from flover.hub.download import Progress, ask_hub, fetch_files
from flover.hub.listing import Repository
from flover.hub.names import SMALL_FILES, UNWANTED_FILES, WEIGHT_FILES, HubName, wanted_files

logger = logging.getLogger(__name__)


def fetch_model(name: HubName, cache: Path | None, progress: Progress, *, weights: bool) -> Path:
    """The directory, or the (first) GGUF file, that a hub name means. Without `weights` none are fetched: a GGUF file
    must be here already.

    If the hub cannot be reached, the cache's files are taken. Raises `ModelError`.
    """
    logger.info("looking for %s on the hub", name)
    try:
        found = ask_hub(name)
    except ModelError:
        raise
    except Exception as error:
        check_refusal(name, cache, error)
        return _from_cache(name, cache, error, weights=weights)
    files = wanted_files(name, found.files, weights=weights)
    if is_gguf(files) and not weights:
        return _gguf_in_cache(found, files, cache)
    logger.info("fetching %s from the hub", name)
    try:
        folder = fetch_files(found, files, cache, progress)
    except ModelError:
        raise
    except Exception as error:  # the library's, its HTTP client's, the disk's
        raise ModelError(f"{name} could not be fetched from the hub: {first_line(error)}") from error
    return folder / files[0] if is_gguf(files) else folder


def is_gguf(files: list[str]) -> bool:
    """Whether the model is GGUF files; else it is a directory of safetensors and JSON."""
    return bool(files) and files[0].lower().endswith(".gguf")


def _gguf_in_cache(found: Repository, files: list[str], cache: Path | None) -> Path:
    folder = cached_folder(HubName(found.name.repo, found.commit), cache)
    if folder is not None and all((folder / file).is_file() for file in files):
        return folder / files[0]
    size = sum(found.sizes.get(file, 0) for file in files)
    raise ModelError(
        f"{found.name} is on the hub ({size / 1e6:,.0f} MB in {', '.join(files)}), but not on this machine, and what a "
        f"GGUF file holds is said in the file alone: flover pull {found.name}"
    )


def _from_cache(name: HubName, cache: Path | None, error: Exception, *, weights: bool) -> Path:
    """The model as the cache has it. `error` says why the hub cannot be asked."""
    folder = cached_folder(name, cache)
    here = [] if folder is None else files_of(folder)
    why = f"the hub cannot be reached to fetch {name}: {first_line(error)}"
    if folder is None or not here:
        raise ModelError(
            f"there is no directory {name}, and {why} (in the cache: not there). Check the name or the connection, or "
            f"give a directory{_near(name, cache)}"
        )
    try:
        files = wanted_files(name, here, weights=weights)
        if not is_gguf(files):
            _check_complete(name, cache, weights=weights)
    except (ModelError, FileNotFoundError) as lacking:
        raise ModelError(f"{why} (in the cache, but not usable: {first_line(lacking)})") from error
    logger.warning("the hub cannot be reached: %s is taken as it is in the cache", name)
    return folder / files[0] if is_gguf(files) else folder


def _check_complete(name: HubName, cache: Path | None, *, weights: bool) -> None:
    """Raises `FileNotFoundError` where the library knows that a file is not there yet."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        name.repo,
        revision=name.revision,
        cache_dir=cache,
        allow_patterns=[*WEIGHT_FILES, *SMALL_FILES] if weights else list(SMALL_FILES),
        ignore_patterns=list(UNWANTED_FILES),
        local_files_only=True,
    )


def _near(name: HubName, cache: Path | None) -> str:
    """`; did you mean …?` for the similar names of models that are on this machine."""
    return suggestion(str(name), {BUNDLED_MODEL, *(found.name for found in cached_models(cache))})


def check_refusal(name: HubName, cache: Path | None, error: Exception) -> None:
    """Raises `ModelError` if the hub has answered that it does not give the model; not if it could not be asked."""
    refusal = _refusal(name, error)
    if refusal is not None:
        raise ModelError(refusal + _near(name, cache)) from error


def _refusal(name: HubName, error: Exception) -> str | None:
    """What to say where the hub has answered and refuses; None if it could not be asked."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo = HubName(name.repo, name.revision)
    if isinstance(error, GatedRepoError):
        return (
            f"{name.repo} is on the hub, but asks who you are: accept its terms on its page there, and set HF_TOKEN to "
            "a token of yours that may read it"
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return f"there is no directory {name}, and the hub has no model {repo} (or it is private: set HF_TOKEN)"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"the hub refuses {repo} ({error.response.status_code}): HF_TOKEN is wrong, or may not read it"
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 429:
        wait = error.response.headers.get("Retry-After", "")
        return f"the hub refuses {repo} for now (429): too many requests{_seconds(wait)}"
    return None


def _seconds(wait: str) -> str:
    return f", it asks to wait {wait} seconds" if wait.isdigit() and len(wait) < 9 else ""


def first_line(error: Exception) -> str:
    """An error in one short line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
