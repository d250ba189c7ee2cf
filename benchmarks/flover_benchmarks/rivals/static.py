"""The compared engines that generate static batches, behind the HTTP wrapper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flover_benchmarks.rivals.engines import PORT, WRAPPER, Command, Files, RivalMachine, torch_forms
from flover_benchmarks.rivals.model import Progress
from flover_benchmarks.rivals.options import RivalLoad


@dataclass(frozen=True, slots=True)
class StaticEngine(ABC):
    """An engine of a Python environment, which the wrapper serves under `name`."""

    files: Files
    machine: RivalMachine
    python: str
    version: str | None
    name: str = ""

    @property
    @abstractmethod
    def forms(self) -> Mapping[str, str]:
        """The engine's name of each format that it supports."""

    @abstractmethod
    def prepare(self, kind: str, progress: Progress) -> None:
        """Make the files that the engine needs. Raises `FloverError` if that fails."""

    def model(self, kind: str) -> Path:
        """The directory that is served: the engine's own conversion."""
        return self.files.other(f"{self.name}-{self.forms[kind]}")

    def command(self, kind: str, load: RivalLoad) -> Command:
        """The server command, with `PORT` for the port; the same for every load."""
        settings = ("--threads", str(self.machine.threads), "--dtype", self.forms[kind])
        return (self.python, str(WRAPPER), self.name, str(self.model(kind)), "--port", PORT, *settings)


@dataclass(frozen=True, slots=True)
class Transformers(StaticEngine):
    """transformers' `generate`."""

    name: str = "transformers"

    @property
    def forms(self) -> Mapping[str, str]:
        return torch_forms(self.machine)

    def prepare(self, kind: str, progress: Progress) -> None:
        """transformers reads the directory as it is."""

    def model(self, kind: str) -> Path:
        return self.files.source


@dataclass(frozen=True, slots=True)
class OnnxRuntime(StaticEngine):
    """ONNX Runtime GenAI, whose model builder exports the model: blocks of 32, activations of 8 bits."""

    name: str = "onnxruntime"

    @property
    def forms(self) -> Mapping[str, str]:
        return {"float32": "fp32", "int8": "int8", "int4": "int4"}

    def prepare(self, kind: str, progress: Progress) -> None:
        builder = (self.python, "-m", "onnxruntime_genai.models.builder", "-i", str(self.files.source))
        what = ("-e", "cpu", "-p", self.forms[kind], "-c", str(self.files.directory / "cache"))
        blocks = ("--extra_options", "accuracy_level=4", "block_size=32")
        self.files.export(self.model(kind), "model.onnx.data", (*builder, *what, *blocks, "-o"), progress)


@dataclass(frozen=True, slots=True)
class CTranslate2(StaticEngine):
    """CTranslate2, with a model of its own converter."""

    name: str = "ctranslate2"

    @property
    def forms(self) -> Mapping[str, str]:
        return {"float32": "float32", "int8": "int8"}

    def prepare(self, kind: str, progress: Progress) -> None:
        converter = (self.python, "-m", "ctranslate2.converters.transformers", "--model", str(self.files.source))
        what = ("--quantization", self.forms[kind])
        self.files.export(self.model(kind), "model.bin", (*converter, *what, "--output_dir"), progress)
