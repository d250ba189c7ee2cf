"""The compared engines: model files, formats and server command of each.

Every rival gets the best known settings for a CPU: one thread per core, one slot per request, cache for all tokens, no
prefix cache (prompts differ anyway), and greedy sampling without sorting the vocabulary.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flover.errors import EngineError
from flover.model.config import ModelConfig
from flover_benchmarks.rivals.convert import convert
from flover_benchmarks.rivals.model import Progress, remove
from flover_benchmarks.rivals.options import FORMATS, GGUF_FORMATS, RivalLoad

PORT = "{port}"
"""Placeholder for the port in a command."""
MODEL_NAME = "model"
EXPORT_SECONDS = 3600.0
SLOT_TOKENS = 256
"""llama.cpp rounds the context of a slot up to a multiple of this."""
WRAPPER = Path(__file__).parent / "wrapper.py"
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RivalMachine:
    """Properties of the machine that decide settings: threads, and hardware bfloat16 products."""

    threads: int
    flags: frozenset[str]

    @property
    def has_bfloat16(self) -> bool:
        return bool(self.flags & {"avx512_bf16", "amx_bf16"})


@dataclass(frozen=True, slots=True)
class Files:
    """The model's Hugging Face directory and config, and the directory of its conversions."""

    source: Path
    config: ModelConfig
    directory: Path

    def other(self, ending: str) -> Path:
        """The path of a conversion of the model."""
        return self.directory / f"{self.source.name}-{ending}"

    def gguf(self, form: str) -> Path:
        """The path of the model as a GGUF file in a format of `convert.FILE_TYPES`."""
        return self.other(f"{form}.gguf")

    def write_gguf(self, form: str, progress: Progress) -> None:
        """Make that file if it is not there. Raises `ModelError` for models that `convert` does not write."""
        path = self.gguf(form)
        if not self.is_fresh(path):
            partial = path.with_suffix(".part")
            convert(self.source, partial, form, progress)
            partial.rename(path)

    def export(self, path: Path, weights: str, command: Command, progress: Progress) -> None:
        """Make a directory by a command that takes its path last, if it isn't there with its file of weights.

        Raises `EngineError` if the command fails or does not write that file.
        """
        if self.is_fresh(path / weights):
            return
        progress(f"exporting {path.name}", 0, 1)
        partial = path.with_suffix(".part")
        remove(partial)
        run_to_its_end((*command, str(partial)), command[2], EXPORT_SECONDS)
        if not (partial / weights).is_file():
            raise EngineError(f"{command[2]} wrote no {weights} into {partial}")
        remove(path)
        partial.rename(path)

    def is_fresh(self, made: Path) -> bool:
        """Whether this file exists and is newer than the weights that it was made from."""
        weights = [path.stat().st_mtime for path in self.source.glob("*.safetensors")]
        return made.is_file() and made.stat().st_mtime >= max(weights)


class Contender(Protocol):
    """An installed engine."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str | None: ...

    @property
    def forms(self) -> Mapping[str, str]:
        """The engine's name of each format that it supports."""
        ...

    def prepare(self, kind: str, progress: Progress) -> None:
        """Make the files that the engine needs. Raises `FloverError` if that fails."""
        ...

    def command(self, kind: str, load: RivalLoad) -> Command:
        """The server command for a load, with `PORT` for the port. Loads with equal commands share a server."""
        ...


@dataclass(frozen=True, slots=True)
class Flover:
    """This project, with the given engine settings."""

    files: Files
    version: str | None
    flags: Command = ()
    name: str = "flover"

    @property
    def forms(self) -> Mapping[str, str]:
        return {kind: kind for kind in FORMATS}

    def prepare(self, kind: str, progress: Progress) -> None:
        """Flover reads the directory as it is, or the GGUF file."""
        if kind in GGUF_FORMATS:
            self.files.write_gguf(kind, progress)

    def command(self, kind: str, load: RivalLoad) -> Command:
        model, weights = self.files.source, ["--dtype", kind]
        if kind in GGUF_FORMATS:
            model, weights = self.files.gguf(kind), []
        elif kind in ("int8", "int4"):
            weights = ["--quantization", kind]
        serve = (sys.executable, "-m", "flover", "serve", str(model), "--skip-tokenizer-init", *weights)
        where = ("--host", "127.0.0.1", "--port", PORT, "--served-model-name", MODEL_NAME)
        return (*serve, *self.flags, *where)


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """llama.cpp's server. `extra` are further arguments."""

    files: Files
    machine: RivalMachine
    binary: str
    version: str | None
    extra: Command = ()
    name: str = "llama.cpp"

    @property
    def forms(self) -> Mapping[str, str]:
        sixteen = "bf16" if self.machine.has_bfloat16 else "f16"
        nearest = {"float32": "f32", "bfloat16": sixteen, "float16": "f16", "int8": "q8_0", "int4": "q4_0"}
        return nearest | {kind: kind for kind in GGUF_FORMATS}

    @property
    def program(self) -> Command:
        """The command of the binary, with LD_LIBRARY_PATH for libraries beside a relocated build."""
        folder = Path(self.binary).resolve().parent
        beside = any(folder.glob("libllama.*"))
        return ("env", f"LD_LIBRARY_PATH={folder}", self.binary) if beside else (self.binary,)

    def prepare(self, kind: str, progress: Progress) -> None:
        self.files.write_gguf(self.forms[kind], progress)

    def command(self, kind: str, load: RivalLoad) -> Command:
        slot = -(-load.context // SLOT_TOKENS) * SLOT_TOKENS
        threads = str(self.machine.threads)
        where = ("--host", "127.0.0.1", "--port", PORT, "--alias", MODEL_NAME)
        cores = ("--threads", threads, "--threads-batch", threads)
        slots = ("--parallel", str(load.num_requests), "--ctx-size", str(load.num_requests * slot), "--cont-batching")
        rest = ("--cache-ram", "0", "--samplers", "top_k", "--top-k", "1")
        model = ("-m", str(self.files.gguf(self.forms[kind])))
        return (*self.program, *model, *where, *cores, *slots, *rest, *self.own, *self.extra)

    @property
    def own(self) -> Command:
        """The flags that this engine alone has."""
        return ("--no-webui", "--no-cache-prompt")


@dataclass(frozen=True, slots=True)
class IkLlamaCpp(LlamaCpp):
    """ik_llama.cpp's server, a fork of llama.cpp's, with its fastest flags: weights repacked at start."""

    name: str = "ik_llama.cpp"

    @property
    def own(self) -> Command:
        return ("--flash-attn", "on", "--run-time-repack", "--batch-size", "2048", "--ubatch-size", "512")


@dataclass(frozen=True, slots=True)
class OpenVino:
    """OpenVINO GenAI's continuous batching behind the HTTP wrapper. optimum-intel exports the model."""

    files: Files
    machine: RivalMachine
    python: str
    version: str | None
    max_tokens: int
    """Tokens of all requests of the largest load."""
    name: str = "openvino"

    @property
    def forms(self) -> Mapping[str, str]:
        return {"float32": "fp32", "bfloat16": "fp16", "float16": "fp16", "int8": "int8", "int4": "int4"}

    def _path(self, kind: str) -> Path:
        return self.files.other(f"openvino-{self.forms[kind]}")

    def prepare(self, kind: str, progress: Progress) -> None:
        export = (self.python, "-m", "optimum.commands.optimum_cli", "export", "openvino")
        what = ("--model", str(self.files.source), "--task", "text-generation-with-past")
        command = (*export, *what, "--weight-format", self.forms[kind])
        self.files.export(self._path(kind), "openvino_model.bin", command, progress)

    def command(self, kind: str, load: RivalLoad) -> Command:
        config = self.files.config
        cache_bytes = self.max_tokens * 2 * config.num_layers * config.kv_size * 4  # float32 at most
        settings = ("--threads", str(self.machine.threads), "--cache-gb", str(1 + cache_bytes // 2**30))
        return (self.python, str(WRAPPER), "openvino", str(self._path(kind)), "--port", PORT, *settings)


@dataclass(frozen=True, slots=True)
class Vllm:
    """vLLM's server, in a build for CPUs."""

    files: Files
    machine: RivalMachine
    python: str
    version: str | None
    max_requests: int
    name: str = "vllm"

    @property
    def forms(self) -> Mapping[str, str]:
        return torch_forms(self.machine)

    def prepare(self, kind: str, progress: Progress) -> None:
        """vLLM reads the directory as it is."""

    def command(self, kind: str, load: RivalLoad) -> Command:
        env = ("env", "VLLM_TARGET_DEVICE=cpu", "VLLM_CPU_KVCACHE_SPACE=1", "HF_HUB_OFFLINE=1")
        serve = (self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.files.source))
        where = ("--host", "127.0.0.1", "--port", PORT, "--served-model-name", MODEL_NAME)
        rest = ("--dtype", self.forms[kind], "--skip-tokenizer-init", "--no-enable-prefix-caching")
        return (*env, *serve, *where, *rest, "--max-num-seqs", str(self.max_requests))


def torch_forms(machine: RivalMachine) -> Mapping[str, str]:
    """16-bit weights run in float32 on machines without bfloat16 instructions: torch is several times faster so."""
    sixteen = "bfloat16" if machine.has_bfloat16 else "float32"
    return {"float32": "float32", "bfloat16": sixteen, "float16": sixteen}


def run_to_its_end(command: Command, name: str, seconds: float) -> str:
    """Run a command and return its output. Raises `EngineError` with its last lines if it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{name} cannot be run: {error}") from error
    if done.returncode:
        raise EngineError(f"{name} ended with code {done.returncode}: {last_lines(done.stdout + done.stderr)}")
    return done.stdout + done.stderr


def last_lines(text: str, count: int = 5) -> str:
    """The end of an output in one line."""
    return " | ".join(text.strip().splitlines()[-count:]) or "(no output)"
