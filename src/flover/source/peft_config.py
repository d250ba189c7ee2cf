"""adapter_config.json of a LoRA adapter of PEFT: what it says of ranks and scales, and what is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flover.errors import ModelError
from flover.files import shown

_EMPTY: tuple[Any, ...] = (None, False, [], {})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": (None, "none"),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}
"""Keys that change what an adapter computes, and the values that do not. Other ways to initialize change the base
model's weights too."""
_READ = frozenset({"r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern"})
_IGNORED = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "runtime_config"),
        *("lora_dropout", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
        *("loftq_config", "eva_config", "corda_config", "megatron_config", "megatron_core", "qalora_group_size"),
    )
)
"""Keys of training and of bookkeeping; which modules an adapter has is seen in its tensors."""
_MODULE = re.compile(r"\^?[\w.-]+")
MAX_RANK = 4096


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Ranks and scales. `targets` are names of modules or their ends; None: whatever has tensors."""

    rank: int
    alpha: float
    use_rslora: bool
    targets: tuple[str, ...] | None
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def is_target(self, module: str) -> bool:
        """Whether PEFT would adapt this module."""
        return self.targets is None or any(_names(target, module) for target in self.targets)

    def rank_of(self, module: str) -> int:
        """Rows of its first matrix."""
        return next((rank for name, rank in self.ranks.items() if _names(name, module)), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of its product: alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732)."""
        alpha = next((alpha for name, alpha in self.alphas.items() if _names(name, module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _names(name: str, module: str) -> bool:
    """Whether a name of the config means a module: it is its name, or the end of it; after a "^" its whole name."""
    if name.startswith("^"):
        return module == name[1:]
    return module == name or module.endswith(f".{name}")


def read_lora_settings(document: Mapping[str, Any], where: str) -> LoraSettings:
    """Raises `ModelError` naming the key of the document called `where` that cannot be honoured."""
    kind = document.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{where}: peft_type is {shown(kind)}; adapters of type LORA are computed")
    for name, value in document.items():
        if name in _READ or name in _IGNORED:
            continue
        if not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in _NEUTRAL.get(name, _EMPTY)
        ):
            raise ModelError(f"{where}: {shown(name)} is {shown(value)}: adapters are not computed with it")
    use_rslora = document.get("use_rslora") or False
    if not isinstance(use_rslora, bool):
        raise ModelError(f"{where}: use_rslora must be true or false, got {shown(use_rslora)}")
    return LoraSettings(
        rank=_rank(document.get("r"), f"{where}: r"),
        alpha=_alpha(document.get("lora_alpha"), f"{where}: lora_alpha"),
        use_rslora=use_rslora,
        targets=_targets(document.get("target_modules"), f"{where}: target_modules"),
        ranks={
            name: _rank(value, f"{where}: rank_pattern.{name}")
            for name, value in _pattern(document, "rank_pattern", where)
        },
        alphas={
            name: _alpha(value, f"{where}: alpha_pattern.{name}")
            for name, value in _pattern(document, "alpha_pattern", where)
        },
    )


def _targets(value: Any, where: str) -> tuple[str, ...] | None:
    """A text is "all-linear" or a regular expression: it is not run, since a stranger's can take for ever, and the
    tensors say which modules there are."""
    if value is None or isinstance(value, str):
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ModelError(f"{where} must be a text or a list of texts, got {shown(value)}")
    return tuple(value)


def _pattern(document: Mapping[str, Any], name: str, where: str) -> list[tuple[str, Any]]:
    value = document.get(name) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{where}: {name} must be an object, got {shown(value)}")
    for key in value:
        if not _MODULE.fullmatch(key):
            raise ModelError(f"{where}: {name} has the key {shown(key)}: names of modules are read, no other patterns")
    return list(value.items())


def _rank(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise ModelError(f"{where} must be an integer from 1 to {MAX_RANK}, got {shown(value)}")
    return value


def _alpha(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= 1e9:
        raise ModelError(f"{where} must be a finite number, got {shown(value)}")
    return float(value)
