"""A hub that lies, or who answers in its place: one line that names what is wrong, nothing outside the cache, no part
of a file taken for the whole, and no more memory, disk or time than was announced."""

import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_http import FakeHandler, FakeServer, serving
from huggingface_hub import constants
from support.fake_hub import COMMIT, Hub, make_handler

from flover.errors import ModelError
from flover.hub import download
from flover.hub.cache import cached_models
from flover.hub.listing import read_listing
from flover.hub.names import HubName
from flover.model.locate import locate_model

SMALL, LARGE = b'{"model_type": "llama"}', bytes(range(256)) * 80
FILE = "m-Q4_K_M.gguf"
SHA = "a" * 64


def listing(*siblings: Any, **changes: Any) -> bytes:
    return json.dumps({"sha": COMMIT, "siblings": list(siblings), **changes}).encode()


def named(name: Any) -> bytes:
    return listing({"rfilename": "config.json"}, {"rfilename": name})


def sized(size: Any) -> bytes:
    return listing({"rfilename": FILE, "lfs": {"sha256": SHA, "size": size}})


INSIDE = "which is no name inside a repository"
ANSWERS: dict[str, tuple[bytes, str]] = {
    "a page": (b"<html>Sign in to the network</html>", "is not JSON: it begins with b'<html>"),
    "nothing": (b"", "is not JSON"),
    "no UTF-8": (b'{"sha": "\xff"}', "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[]", "no commit or no list of files"),
    "a number": (b"1", "no commit or no list of files"),
    "no commit": (listing(sha=None), "no commit"),
    "a commit that is a path": (listing(sha="../../../../tmp/commit"), "no commit"),
    "a commit with an end of line": (listing(sha=COMMIT + "\n"), "no commit"),
    "files in an object": (listing(siblings={"a": 1}), "no list of files"),
    "files in a text": (listing(siblings="config.json"), "no list of files"),
    "a file that is a text": (listing("config.json"), "a file without a name: 'config.json'"),
    "a name that is a number": (named(7), "a file without a name"),
    "no name": (listing({"size": 7}), "a file without a name"),
    "above": (named("../../../.bashrc.json"), f"'../../../.bashrc.json', {INSIDE}"),
    "above in the middle": (named("a/../../b.json"), INSIDE),
    "above at the end": (named("a/.."), INSIDE),
    "absolute": (named("/etc/cron.d/job.json"), INSIDE),
    "empty": (named(""), INSIDE),
    "a folder": (named("a/"), INSIDE),
    "here": (named("./config.json"), INSIDE),
    "backslashes": (named("..\\..\\a.json"), INSIDE),
    "NUL": (named("a\0.json"), INSIDE),
    "end of line": (named("a\nerror: b.json"), INSIDE),
    "escape sequence": (named("\x1b[2Ja.json"), INSIDE),
    "from right to left": (named("a\u202egpj.json"), INSIDE),
    "half a character": (named("a\ud800.json"), INSIDE),
    "long": (named("a" * 300 + ".json"), "too long: at most 255 bytes"),
    "long in bytes": (named("é" * 128), "too long: at most 255 bytes"),
    "deep folders": (named("abc/" * 400 + "a.json"), "too long"),
    "twice": (named("config.json"), "lists 'config.json' twice"),
    "a size that is a text": (sized("12"), f"lists '{FILE}' with the size '12'"),
    "a size below 0": (sized(-1), "with the size -1"),
    "a size of true": (sized(True), "with the size True"),
    "a huge size": (sized(2**60), "with the size 1152921504606846976"),
    "a size that is no integer": (listing({"rfilename": "a", "size": 1.5}), "with the size 1.5"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_no_hub_gives(case: str) -> None:
    raw, message = ANSWERS[case]
    with pytest.raises(ModelError) as caught:
        read_listing(HubName("org/repo"), raw)
    assert message in str(caught.value) and "org/repo" in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_names_that_differ_in_case_are_two_files() -> None:
    found = read_listing(
        HubName("org/repo"), listing({"rfilename": "A.json"}, {"rfilename": "a.json"}, {"rfilename": "ü"})
    )
    assert found.files == ("A.json", "a.json", "ü")


Answer = Callable[[Any], None]


def head(status: int, length: int | None = None, **headers: str) -> Callable[[FakeHandler], None]:
    def send(handler: FakeHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.close_connection = True

    return send


def sends(body: bytes, status: int = 200, length: int | None = None, times: int = 1, **headers: str) -> Answer:
    """`body`, `times` times, under a Content-Length that is its own by default; -1: none."""

    def answer(handler: Any) -> None:
        head(status, {None: len(body), -1: None}.get(length, length), **headers)(handler)
        if handler.command == "GET":
            for _ in range(times):
                handler.wfile.write(body)

    return answer


def drips(handler: Any) -> None:
    head(200, 1000)(handler)
    while not handler.server.ended.wait(0.05):
        handler.wfile.write(b" ")


def turns(handler: Any) -> None:
    head(302, 0, Location=handler.path)(handler)


BOMB = gzip.compress(bytes(2**24))
ENDLESS = sends(bytes(2**20), length=-1, times=200)
HOSTILE: dict[str, tuple[str, Answer, str]] = {
    "listing: page": ("/api/", sends(b"<html>"), "is not JSON"),
    "listing: endless": ("/api/", ENDLESS, "is longer than"),
    "listing: gzip bomb": ("/api/", sends(BOMB, Content_Encoding="gzip"), "is longer than"),
    "listing: no gzip": ("/api/", sends(b"no gzip", Content_Encoding="gzip"), "cannot be reached to fetch org/repo"),
    "listing: drip": ("/api/", drips, "no answer in 0.3 seconds"),
    "listing: turns": ("/api/", turns, "cannot be reached to fetch org/repo"),
    "listing: file": ("/api/", head(302, 0, Location="file:///etc/passwd"), "cannot be reached to fetch org/repo"),
    "listing: 429": (
        "/api/",
        head(429, 0, Retry_After="7200"),
        r"for now (429): too many requests, it asks to wait 7200",
    ),
    "listing: 503": ("/api/", head(503, 0), "503"),
    "listing: no HTTP": (
        "/api/",
        lambda handler: handler.wfile.write(b"\0\1\2"),
        "cannot be reached to fetch org/repo",
    ),
    "file: short": ("/cdn/", sends(LARGE[:-1]), f"size {len(LARGE)} but has size {len(LARGE) - 1}"),
    "file: long": ("/cdn/", sends(LARGE + b"!"), f"{FILE} is longer than the {len(LARGE)} bytes"),
    "file: endless": ("/cdn/", ENDLESS, f"{FILE} is longer than the {len(LARGE)} bytes"),
    "file: gzip bomb": ("/cdn/", sends(BOMB, Content_Encoding="gzip"), f"{FILE} is longer than the"),
    "file: cut": ("/cdn/", sends(LARGE[:100], length=len(LARGE)), "could not be fetched"),
    "file: page": ("/cdn/", sends(b"<html>".ljust(len(LARGE))), f"{FILE} has arrived with the SHA-256"),
    "file: turns": ("/cdn/", turns, "could not be fetched"),
    "file: file": ("/cdn/", head(302, 0, Location="file:///etc/passwd"), "could not be fetched"),
    "file: 403": ("/cdn/", head(403, 0), "403"),
    "file: 404": ("/cdn/", head(404, 0), "404"),
    "file: 500": ("/cdn/", head(500, 0), "500"),
    "file: 206 of another place": (
        "/cdn/",
        sends(LARGE, 206, Content_Range=f"bytes 5-{len(LARGE) + 4}/{len(LARGE) + 5}"),
        "",
    ),
    "small file: endless": ("/resolve/", ENDLESS, "could not be fetched"),
}
"""What is answered to a request whose path has a part, and how it is said."""
GOOD = {"file: 206 of another place"}
"""The checksum is that of the file: what was said about it does not count."""


@pytest.fixture
def hub() -> Hub:
    return Hub({"org/repo": {FILE: LARGE}, "org/plain": {"config.json": SMALL, "model.safetensors": LARGE}})


@pytest.fixture
def hostile(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[FakeServer, dict[str, Answer]]]:
    """A hub, and what it answers to paths that have a part instead of what it should."""
    answers: dict[str, Answer] = {}

    class Handler(make_handler(hub)):  # type: ignore[misc]
        def get(self) -> None:
            for part, answer in answers.items():
                if part in self.path:
                    key, asked = self.headers.get("Authorization"), self.headers.get("Range")
                    self.server.seen.append((self.command, self.path, asked, key))
                    try:
                        return answer(self)
                    except OSError:  # the client has had enough
                        self.close_connection = True
                        return None
            return super().get()  # type: ignore[no-any-return]

    with serving(Handler) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        resolve = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(download, "HUB_SECONDS", 0.3)
        monkeypatch.setattr(download, "MAX_LISTING_BYTES", 2**20)
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the library waits before it tries again
        yield server, answers


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_answer(case: str, hostile: tuple[FakeServer, dict[str, Answer]], tmp_path: Path) -> None:
    server, answers = hostile
    part, answers[part], message = HOSTILE[case]
    name = "org/plain" if case.startswith("small") else "org/repo:Q4_K_M"
    if case in GOOD:
        assert locate_model(name).read_bytes() == LARGE
        return
    with pytest.raises(ModelError) as caught:
        locate_model(name)
    said = str(caught.value)
    assert message in said and name.split(":")[0] in said and "\n" not in said and len(said) < 600
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 2**22  # of 200 MB
    assert all(path.is_relative_to(tmp_path / "cache") for path in kept) and not list(cached_models(None))
    assert {key for _, path, _, key in server.seen if "/cdn/" in path} <= {None}, "the token left the hub's host"
    answers.clear()
    assert locate_model(name).exists(), "what was left of it is in the way"


def test_the_rest_of_a_file_that_is_another_one(hostile: tuple[FakeServer, dict[str, Answer]], tmp_path: Path) -> None:
    """A range that is not the one that was asked for is not the rest: the checksum says so, and it begins anew."""
    _, answers = hostile
    part = tmp_path / f"cache/models--org--repo/blobs/{hashlib.sha256(LARGE).hexdigest()}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(LARGE[:500])
    answers["/cdn/"] = sends(bytes(len(LARGE) - 500), 206, Content_Range=f"bytes 500-{len(LARGE) - 1}/{len(LARGE)}")
    with pytest.raises(ModelError, match="has arrived with the SHA-256"):
        locate_model("org/repo:Q4_K_M")
    assert not part.exists() and not list(cached_models(None))
    answers.clear()
    assert locate_model("org/repo:Q4_K_M").read_bytes() == LARGE


def test_a_disk_that_fills(hostile: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(counted: Any, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(download._Counted, "write", full)
        with pytest.raises(ModelError, match=r"org/repo:Q4_K_M needs .* MB more in .*, and 0 MB are free there"):
            locate_model("org/repo:Q4_K_M")
    assert not list(cached_models(None))
    assert locate_model("org/repo:Q4_K_M").read_bytes() == LARGE
