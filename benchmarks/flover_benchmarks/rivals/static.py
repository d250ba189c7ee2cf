"""The compared engines that generate static batches, behind the HTTP wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flover_benchmarks.rivals.engines import PORT, WRAPPER, Command, Files, RivalMachine, torch_forms
from flover_benchmarks.rivals.model import Progress
from flover_benchmarks.rivals.options import RivalLoad


@dataclass(frozen=True, slots=True)
class Transformers:
    """transformers' `generate` on static batches, behind the HTTP wrapper."""

    files: Files
    machine: RivalMachine
    python: str
    version: str | None
    name: str = "transformers"

    @property
    def forms(self) -> Mapping[str, str]:
        return torch_forms(self.machine)

    def prepare(self, kind: str, progress: Progress) -> None:
        """transformers reads the directory as it is."""

    def command(self, kind: str, load: RivalLoad) -> Command:
        settings = ("--threads", str(self.machine.threads), "--dtype", self.forms[kind])
        return (self.python, str(WRAPPER), "transformers", str(self.files.source), "--port", PORT, *settings)


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime GenAI, whose model builder exports the model: blocks of 32, activations of 8 bits."""

    files: Files
    machine: RivalMachine
    python: str
    version: str | None
    name: str = "onnxruntime"

    @property
    def forms(self) -> Mapping[str, str]:
        return {"float32": "fp32", "int8": "int8", "int4": "int4"}

    def _path(self, kind: str) -> Path:
        return self.files.other(f"onnxruntime-{self.forms[kind]}")

    def prepare(self, kind: str, progress: Progress) -> None:
        builder = (self.python, "-m", "onnxruntime_genai.models.builder", "-i", str(self.files.source))
        what = ("-e", "cpu", "-p", self.forms[kind], "-c", str(self.files.directory / "cache"))
        blocks = ("--extra_options", "accuracy_level=4", "block_size=32")
        command = (*builder, *what, *blocks, "-o")
        self.files.export(self._path(kind), "model.onnx.data", command, progress)

    def command(self, kind: str, load: RivalLoad) -> Command:
        settings = ("--threads", str(self.machine.threads))
        return (self.python, str(WRAPPER), "onnxruntime", str(self._path(kind)), "--port", PORT, *settings)


@dataclass(frozen=True, slots=True)
class CTranslate2:
    """CTranslate2, with a model of its own converter."""

    files: Files
    machine: RivalMachine
    python: str
    version: str | None
    name: str = "ctranslate2"

    @property
    def forms(self) -> Mapping[str, str]:
        return {"float32": "float32", "int8": "int8"}

    def _path(self, kind: str) -> Path:
        return self.files.other(f"ctranslate2-{self.forms[kind]}")

    def prepare(self, kind: str, progress: Progress) -> None:
        converter = (self.python, "-m", "ctranslate2.converters.transformers", "--model", str(self.files.source))
        command = (*converter, "--quantization", self.forms[kind], "--output_dir")
        self.files.export(self._path(kind), "model.bin", command, progress)

    def command(self, kind: str, load: RivalLoad) -> Command:
        settings = ("--threads", str(self.machine.threads), "--dtype", self.forms[kind])
        return (self.python, str(WRAPPER), "ctranslate2", str(self._path(kind)), "--port", PORT, *settings)
