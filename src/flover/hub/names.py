"""Names of models on a hub, and which files of a repository a name means. Nothing here is read or asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from flover.errors import ModelError, suggestion

USUAL_QUANTIZATION = "Q4_K_M"
"""What a repository of several GGUF files means where none is named, as in llama.cpp."""
_SHOWN_FILES = 40
SMALL_FILES = ("*.json", "*.jinja", "merges.txt", "tokenizer.model")
WEIGHT_FILES = ("*.safetensors",)
UNWANTED_FILES = ("consolidated*", "*/*")  # the same weights again in another layout; subdirectories

_NAME = re.compile(
    r"(?P<repo>[\w.-]{1,96}(/[\w.-]{1,96})?)(@(?P<revision>[\w.-]{1,96}))?"
    r"(/(?P<file>([\w.+-]{1,96}/){0,4}[\w.+-]{1,200}\.gguf))?(:(?P<quantization>[\w.-]{1,40}))?"
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_LABEL = re.compile(
    r"(^|[-._/])(?P<label>(UD-)?(I?Q[1-8](_\w+)?|TQ[12]_0|MXFP4(_\w+)?|BF16|F16|FP16|F32))($|[-._/])", re.IGNORECASE
)
_NO_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
"""GGUF files beside a model: a projector of images, statistics of activations."""


@dataclass(frozen=True, slots=True)
class HubName:
    """ORG/REPO[@REVISION], and which of its GGUF files: /FILE, or :QUANTIZATION."""

    repo: str
    revision: str | None = None
    file: str | None = None
    quantization: str | None = None

    def __str__(self) -> str:
        parts = (("@", self.revision), ("/", self.file), (":", self.quantization))
        return self.repo + "".join(f"{before}{part}" for before, part in parts if part)

    @property
    def is_gguf(self) -> bool:
        """Whether a GGUF file is named."""
        return self.file is not None or self.quantization is not None


@dataclass(frozen=True, slots=True)
class GgufModel:
    """One model among a repository's GGUF files: the file, or all parts of a split one in order. `label` is the
    quantization that its name says, in capitals; "" if it says none."""

    label: str
    files: tuple[str, ...]


def parse_hub_name(text: str) -> HubName | None:
    """None for what cannot be the name of a model on a hub."""
    found = _NAME.fullmatch(text)
    if found is None or text.startswith((".", "-")) or ".." in text:
        return None
    name = HubName(found["repo"], found["revision"], found["file"], found["quantization"])
    if name.repo.lower().endswith(".gguf") or (name.file and name.quantization):
        return None
    return name if (name.revision is None and not name.is_gguf) or "/" in name.repo else None


def gguf_models(files: Iterable[str]) -> list[GgufModel]:
    """The models among files, by name. Parts of a split one that are not all there are no model."""
    whole: dict[str, list[str]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix.lower() != ".gguf" or _NO_MODEL.search(path.name):
            continue
        part = _PART.fullmatch(path.stem)
        key = file if part is None else f"{path.parent / part['stem']} {part['count']}"
        whole.setdefault(key, []).append(file)
    return [GgufModel(_label(parts[0]), tuple(parts)) for parts in whole.values() if len(parts) == _count(parts[0])]


def choose_files(name: HubName, files: Sequence[str]) -> tuple[str, ...] | None:
    """The GGUF files that `name` means, in order; None if it means a repository of safetensors.

    Raises `ModelError` with what there is, if that is no model or several.
    """
    models = gguf_models(files)
    if name.file is not None:
        return _named_file(name, models)
    if name.quantization is not None:
        return _labelled(name, name.quantization.upper(), models)
    if not models or any("/" not in file and file.endswith(".safetensors") for file in files):
        return None
    if len(models) == 1:
        return models[0].files
    usual = [model for model in models if model.label == USUAL_QUANTIZATION]
    if len(usual) == 1:
        return usual[0].files
    raise ModelError(f"{name} has several GGUF files: {_listed(name, models)}. Name one of them")


def wanted_files(name: HubName, files: Sequence[str], *, weights: bool) -> list[str]:
    """The files to fetch of those that a repository has. Raises `ModelError` if the name means none or several."""
    chosen = choose_files(name, files)
    if chosen is not None:
        return list(chosen)
    patterns = (*WEIGHT_FILES, *SMALL_FILES) if weights else SMALL_FILES
    return [file for file in files if _matches(file, patterns) and not _matches(file, UNWANTED_FILES)]


def _matches(file: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)


def _named_file(name: HubName, models: Sequence[GgufModel]) -> tuple[str, ...]:
    for model in models:
        if name.file in model.files:
            return model.files
    known = [file for model in models for file in model.files]
    near = suggestion(str(name.file), known) or "."
    raise ModelError(f"{name.repo} has no {name.file}{near} {_has(name, models)}")


def _labelled(name: HubName, label: str, models: Sequence[GgufModel]) -> tuple[str, ...]:
    found = [model for model in models if model.label == label]
    if len(found) == 1:
        return found[0].files
    if not found:
        near = suggestion(label, {model.label for model in models if model.label}) or "."
        raise ModelError(f"{name.repo} has no GGUF file of the quantization {label}{near} {_has(name, models)}")
    listed = ", ".join(f"{name.repo}/{model.files[0]}" for model in found)
    raise ModelError(f"{name.repo} has several GGUF files of the quantization {label}: name one of {listed}")


def _has(name: HubName, models: Sequence[GgufModel]) -> str:
    return f"It has {_listed(name, models)}" if models else "It has no GGUF file"


def _listed(name: HubName, models: Sequence[GgufModel]) -> str:
    labels = [model.label for model in models]
    shown = [model_name(name.repo, model, labels.count(model.label) == 1) for model in models[:_SHOWN_FILES]]
    return ", ".join(shown) + (f" and {len(models) - _SHOWN_FILES} more" if len(models) > _SHOWN_FILES else "")


def model_name(repo: str, model: GgufModel, is_only: bool) -> str:
    """What a user types for it: by its quantization where no other of the repository has the same."""
    return f"{repo}:{model.label}" if model.label and is_only else f"{repo}/{model.files[0]}"


def _label(file: str) -> str:
    """The last quantization in a file's name, else in those of its folders."""
    path = PurePosixPath(file)
    part = _PART.fullmatch(path.stem)
    for text in (path.stem if part is None else part["stem"], *reversed(path.parent.parts)):
        found = list(_LABEL.finditer(text))
        if found:
            return found[-1]["label"].upper()
    return ""


def _count(file: str) -> int:
    part = _PART.fullmatch(PurePosixPath(file).stem)
    return 1 if part is None else int(part["count"])
