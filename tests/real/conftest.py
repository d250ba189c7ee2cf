"""Tests of a real model, which `make real` fetches; `make test` does not run them."""

from pathlib import Path

import pytest

REAL = Path(__file__).resolve().parents[2] / ".real"
FILE = REAL / "gemma-3-270m-q4_k_m.gguf"


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma 3 270M in Q4_K_M."""
    assert FILE.is_file(), "there is no model: make real fetches it"
    return FILE


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """Where llama.cpp's Python package is: apart from Flover's environment."""
    found = REAL / "llama.cpp"
    assert found.is_dir(), "there is no llama.cpp: make real fetches it"
    return found
