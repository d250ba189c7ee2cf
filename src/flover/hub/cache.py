"""What the cache of `huggingface_hub` has on this machine. Nothing is asked of a hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flover.hub.names import HubName, gguf_models, model_name

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model of the cache. `name` is what a user types, `path` its directory or GGUF file, `modified` the time of its
    newest file in seconds since 1970."""

    name: str
    path: Path
    format: str
    num_bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class PartialDownload:
    """A repository of which a download was cut short, and what has arrived of its files so far."""

    repo: str
    num_bytes: int
    modified: float


def cached_folder(name: HubName, cache: Path | None) -> Path | None:
    """The directory that the cache has of this revision, complete or not."""
    folder = repository_folder(name.repo, cache)
    revision = name.revision or "main"
    if not _COMMIT.fullmatch(revision):
        try:
            revision = (folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):
            return None
    found = folder / "snapshots" / revision
    return found if found.is_dir() else None


def files_of(folder: Path) -> list[str]:
    """The files of a directory of the cache, but not links whose file is gone."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def repository_folder(repo: str, cache: Path | None) -> Path:
    """Where the cache keeps a repository."""
    return cache_root(cache) / "--".join(("models", *repo.split("/")))


def cache_root(cache: Path | None) -> Path:
    """The directory of all repositories: `cache`, or the library's own (HF_HUB_CACHE, HF_HOME)."""
    from huggingface_hub import constants  # slow to import, and only hub names need it

    return Path(cache or constants.HF_HUB_CACHE).expanduser()


def cached_models(cache: Path | None) -> Iterator[CachedModel]:
    """The models of all repositories, by name."""
    for folder in _repositories(cache):
        repo = _repo_of(folder)
        names = {commit: revision for revision, commit in _revisions(folder).items()}
        for snapshot in sorted(path for path in (folder / "snapshots").glob("*") if path.is_dir()):
            revision = names.get(snapshot.name, snapshot.name)
            at = repo if revision == "main" else f"{repo}@{revision}"
            yield from _models_of(at, snapshot)


def partial_downloads(cache: Path | None) -> Iterator[PartialDownload]:
    """What downloads that were cut short have left."""
    for folder in _repositories(cache):
        found = [path.stat() for path in (folder / "blobs").glob("*.incomplete") if path.is_file()]
        if found:
            newest = max(status.st_mtime for status in found)
            yield PartialDownload(_repo_of(folder), sum(status.st_size for status in found), newest)


def _models_of(name: str, snapshot: Path) -> Iterator[CachedModel]:
    files = files_of(snapshot)
    tensors = [file for file in files if "/" not in file and file.endswith(".safetensors")]
    if tensors and "config.json" in files:
        yield _model(name, snapshot, "safetensors", [snapshot / file for file in tensors])
    models = gguf_models(files)
    labels = [model.label for model in models]
    for model in models:
        typed = model_name(name, model, labels.count(model.label) == 1)
        paths = [snapshot / file for file in model.files]
        yield _model(typed, paths[0], f"GGUF {model.label}".strip(), paths)


def _model(name: str, path: Path, kind: str, files: Sequence[Path]) -> CachedModel:
    found = [file.stat() for file in files]
    size, newest = sum(status.st_size for status in found), max(status.st_mtime for status in found)
    return CachedModel(name, path, kind, size, newest)


def _repositories(cache: Path | None) -> list[Path]:
    return sorted(path for path in cache_root(cache).glob("models--*") if path.is_dir())


def _repo_of(folder: Path) -> str:
    return "/".join(folder.name.split("--")[1:])


def _revisions(folder: Path) -> dict[str, str]:
    """The commits of branches and tags."""
    refs = folder / "refs"
    return {str(path.relative_to(refs)): path.read_text().strip() for path in refs.rglob("*") if path.is_file()}
