"""The GGUF models that a repository offers, each with its size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flover.errors import ModelError
from flover.hub.cache import cached_folder, cached_models
from flover.hub.download import ask_hub
from flover.hub.fetch import check_refusal
from flover.hub.names import HubName, gguf_models, model_name


@dataclass(frozen=True, slots=True)
class Offer:
    """A GGUF model under the name that a user types, and whether it is on this machine."""

    name: str
    num_bytes: int
    is_here: bool


def find_offers(name: HubName, download_dir: str | None) -> list[Offer]:
    """The GGUF models of a repository, as the hub has them, or as the cache has them if the hub cannot be reached; none
    if the repository has weights in safetensors. Raises `ModelError` for what the hub refuses."""
    cache = None if download_dir is None else Path(download_dir)
    at = str(HubName(name.repo, name.revision))
    try:
        found = ask_hub(name)
    except ModelError:
        raise
    except Exception as error:
        check_refusal(name, cache, error)
        here = [model for model in cached_models(cache) if model.name.startswith((f"{at}:", f"{at}/"))]
        return [Offer(model.name, model.num_bytes, True) for model in here]
    if any("/" not in file and file.endswith(".safetensors") for file in found.files):
        return []
    folder = cached_folder(HubName(name.repo, found.commit), cache)
    models = gguf_models(found.files)
    labels = [model.label for model in models]
    offers = []
    for model in models:
        is_here = folder is not None and all((folder / file).is_file() for file in model.files)
        size = sum(found.sizes.get(file, 0) for file in model.files)
        offers.append(Offer(model_name(at, model, labels.count(model.label) == 1), size, is_here))
    return offers
