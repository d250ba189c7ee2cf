"""Downloads from a hub on this machine: resumed, compared with their checksums, refused in words; and without a hub."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_http import FakeServer, serving
from huggingface_hub import constants
from support.fake_hub import COMMIT, Hub, make_handler

from flover.errors import ModelError
from flover.hub import download
from flover.hub.cache import cached_models, partial_downloads
from flover.model.locate import locate_model

SMALL = random.Random(0).randbytes(300_000)
LARGE = random.Random(1).randbytes(5_000_000)
REPO = "org/repo"


@pytest.fixture
def hub() -> Hub:
    safetensors = {"config.json": b"{}", "model.safetensors": SMALL, "pytorch_model.bin": SMALL}
    split = {f"Q8_0/m-Q8_0-0000{part}-of-00002.gguf": bytes([part]) + SMALL for part in (1, 2)}
    return Hub({REPO: {"m-Q4_K_M.gguf": LARGE, **split}, "org/plain": safetensors})


@pytest.fixture
def server(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    with serving(make_handler(hub)) as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(download, "HUB_SECONDS", 30.0)
        yield found


def asked(server: FakeServer, what: str) -> list[Any]:
    """The requests for the content of files whose path has `what`: their Range."""
    return [
        found[2] for found in server.seen if found[0] == "GET" and found[1].startswith("/cdn/") and what in found[1]
    ]


def test_a_file_by_its_quantization_once(server: FakeServer, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    path = locate_model("org/repo:q4_k_m", progress=lambda done, total: steps.append((done, total)))
    assert path == tmp_path / f"cache/models--org--repo/snapshots/{COMMIT}/m-Q4_K_M.gguf"
    assert path.read_bytes() == LARGE
    assert steps[0] == (0, len(LARGE)) and steps[-1] == (len(LARGE), len(LARGE)) and steps == sorted(steps)
    assert locate_model("org/repo", weights=False) == path  # without weights nothing is fetched: it is here
    assert asked(server, "") == [None]
    with pytest.raises(ModelError, match=r"org/repo:Q8_0 is on the hub \(1 MB .*flover pull org/repo:Q8_0"):
        locate_model("org/repo:Q8_0", weights=False)


def test_all_parts_of_a_split_file(server: FakeServer) -> None:
    path = locate_model("org/repo:Q8_0")
    assert path.name == "m-Q8_0-00001-of-00002.gguf"
    assert [part.read_bytes()[:1] for part in sorted(path.parent.iterdir())] == [b"\1", b"\2"]


def test_a_directory_of_safetensors(server: FakeServer) -> None:
    small = locate_model("org/plain", weights=False)
    assert [path.name for path in small.iterdir()] == ["config.json"]
    path = locate_model("org/plain@main")
    assert sorted(found.name for found in path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_connection_that_is_cut_goes_on_where_it_stopped(
    server: FakeServer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000_000)
    hub.cut_at = [2_000_000, 3_500_000]
    assert locate_model("org/repo:Q4_K_M").read_bytes() == LARGE
    assert asked(server, "Q4_K_M") == [None, "bytes=2000000-", "bytes=3000000-"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_another_process_goes_on_where_one_was_ended(
    server: FakeServer, hub: Hub, tmp_path: Path, knows_ranges: bool
) -> None:
    hub.knows_ranges = knows_ranges
    blobs = tmp_path / "cache/models--org--repo/blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{hashlib.sha256(LARGE).hexdigest()}.incomplete"
    part.write_bytes(LARGE[:3_000_000])
    assert [(found.repo, found.num_bytes) for found in partial_downloads(None)] == [(REPO, 3_000_000)]
    steps: list[int] = []
    path = locate_model("org/repo:Q4_K_M", progress=lambda done, total: steps.append(done))
    assert path.read_bytes() == LARGE
    assert asked(server, "Q4_K_M") == ["bytes=3000000-"]
    assert steps[0] == 3_000_000
    assert not part.exists() and not list(partial_downloads(None))


def test_what_is_not_what_the_hub_announces_is_removed(server: FakeServer, hub: Hub, tmp_path: Path) -> None:
    hub.damaged = True
    with pytest.raises(ModelError, match=r"m-Q4_K_M\.gguf has arrived with the SHA-256 .* was removed: try again"):
        locate_model("org/repo:Q4_K_M")
    assert not list(tmp_path.rglob("*.incomplete")) and not list(cached_models(None))
    hub.damaged = False
    assert locate_model("org/repo:Q4_K_M").read_bytes() == LARGE


def test_a_full_disk_is_said_before_a_byte_is_fetched(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = download.shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"needs 5 MB more in .*/cache/models--org--repo, and 1 MB are free"):
        locate_model("org/repo:Q4_K_M")
    assert asked(server, "") == []


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "GatedRepo"), r"asks who you are: accept its terms .* HF_TOKEN"),
        ((403, "GatedRepo"), r"asks who you are"),
        ((401, "RepoNotFound"), r"the hub has no model org/other \(or it is private: set HF_TOKEN\)"),
        ((401, ""), r"the hub refuses org/other \(401\): HF_TOKEN is wrong, or may not read it"),
        ((403, ""), r"the hub refuses org/other \(403\): HF_TOKEN is wrong, or may not read it"),
        ((404, "RepoNotFound"), r"the hub has no model org/other"),
        ((500, ""), r"the hub cannot be reached to fetch org/other.*: .*500"),
    ],
)
def test_what_the_hub_refuses(server: FakeServer, hub: Hub, refusal: tuple[int, str], message: str) -> None:
    hub.refusals["org/other"] = refusal
    with pytest.raises(ModelError, match=message):
        locate_model("org/other")
    with pytest.raises(ModelError, match=message):
        locate_model("org/other:Q8_0", weights=False)


def test_a_name_that_is_nearly_right_gets_the_right_one(server: FakeServer) -> None:
    locate_model("org/repo:Q4_K_M")
    for wrong in ("org/rebo:Q4_K_M", "org/repo:Q4_K_N"):
        with pytest.raises(ModelError, match=r"did you mean .*Q4_K_M"):
            locate_model(wrong)
    with pytest.raises(ModelError, match="did you mean flover-tiny"):
        locate_model("flover-tny")
    with pytest.raises(ModelError, match=r"the hub has no model org/repo@v9"):
        locate_model("org/repo", "v9")
    with pytest.raises(ModelError, match="names a revision, and --revision is b"):
        locate_model("org/repo@a", "b")


def test_offline_the_cache_is_all_there_is(server: FakeServer, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first, plain = locate_model("org/repo:Q4_K_M"), locate_model("org/plain")
    locate_model("org/repo:Q8_0").unlink()
    server.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate_model("org/repo:q4_k_m") == locate_model("org/repo") == first
    assert locate_model("org/plain") == plain
    for lacking, message in (
        (
            "org/repo:Q8_0",
            r"offline.*\(in the cache, but not usable: org/repo has no GGUF file .* It has org/repo:Q4_K_M",
        ),
        ("org/repo:Q5_0", r"It has org/repo:Q4_K_M"),
        ("org/never", r"offline.*in the cache: not there"),
    ):
        with pytest.raises(ModelError, match=message):
            locate_model(lacking)
    (plain / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"in the cache, but not usable: .*incomplete"):
        locate_model("org/plain")
    assert server.seen == []


def test_the_commands_in_processes_of_their_own(server: FakeServer, hub: Hub, tmp_path: Path) -> None:
    hub.token = "secret"
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "secret",
    }

    def flover(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flover", *arguments]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=120)

    refused = flover("pull", "org/repo:Q4_K_M", HF_TOKEN="wrong")
    assert refused.returncode == 1 and "set HF_TOKEN" in refused.stderr and refused.stderr.count("\n") == 1
    pulled = flover("pull", "org/repo:Q4_K_M")
    path = tmp_path / f"home/hub/models--org--repo/snapshots/{COMMIT}/m-Q4_K_M.gguf"
    sent = {key for _, place, _, key in server.seen if place.startswith("/cdn/")}
    assert sent == {None}  # the token is for the hub alone
    assert (pulled.stdout, pulled.stderr) == (f"{path}\n", "Downloading org/repo:Q4_K_M: 5 MB\n")
    offline = flover("pull", "org/repo:Q4_K_M", HF_HUB_OFFLINE="1")
    assert offline.stdout == f"{path}\n"
    listed = json.loads(flover("list", "--json").stdout)["models"]
    found = [(model["name"], model["format"], model["num_bytes"]) for model in listed]
    assert found[1:] == [("org/repo:Q4_K_M", "GGUF Q4_K_M", len(LARGE))]
    assert found[0][0] == "flover-tiny"
    offers = json.loads(flover("show", "org/repo", "--json").stdout)["files"]
    assert offers == [
        {"name": "org/repo:Q8_0", "num_bytes": 2 * (len(SMALL) + 1), "is_here": False},
        {"name": "org/repo:Q4_K_M", "num_bytes": len(LARGE), "is_here": True},
    ]
    table = flover("show", "org/repo").stdout
    assert "org/repo:Q8_0" in table and "1 MB, not downloaded" in table and "5 MB, on this machine" in table
    served = flover("serve", "org/repo:Q4_K_M", "--port", "0")
    assert served.returncode == 1 and "is not a GGUF file" in served.stderr
