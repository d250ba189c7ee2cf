"""Temporary directories of processes that were killed are removed by the next."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import flover
from flover.server.batches.store import Store
from flover.temporary import MARK, TemporaryDirectory

WRITER = """
import io, sys
from flover.server.batches.store import Store
store = Store(None, 2**20, lambda: 0.0)
store.add_file("", "a.jsonl", "batch", io.BytesIO(b"{}"), 3600)
print(store.path("."), flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER], **pipes) for _ in range(2)]
    folders = []
    for writer in writers:
        assert writer.stdout is not None
        folders.append(Path(writer.stdout.readline().strip()).parent)
    killed, living = folders
    writers[0].kill()
    writers[0].wait()
    assert killed.is_dir() and killed != living
    others = [tmp_path / "flover-batches-mine1234", tmp_path / "flover-my-own-data"]
    for other in others:
        other.mkdir()
    (others[1] / MARK).touch()
    link = tmp_path / "flover-batches-link1234"
    link.symlink_to(others[1])
    own = TemporaryDirectory("ranks")
    assert not killed.exists()
    store = Store(None, 2**20, lambda: 0.0)  # a server's start
    store.close()
    assert all(path.is_dir() for path in (living, own.path, link, *others))
    own.close()
    assert not own.path.exists()
    writers[1].communicate()
    assert writers[1].returncode == 0 and living.is_dir(), "it ended without cleaning up"
    Store(None, 2**20, lambda: 0.0).close()
    assert not living.exists()


def test_every_temporary_directory_is_one_of_these() -> None:
    source = Path(flover.__file__).parent
    users = [path.name for path in source.rglob("*.py") if "mkdtemp" in path.read_text()]
    assert users == ["temporary.py"]
