"""A hub on this machine: as much of its HTTP interface as looking a model up and fetching it takes."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from fake_http import FakeHandler

COMMIT = "0123456789abcdef" * 2 + "01234567"
LARGE_BYTES = 1000
"""Files from this size on are large ones, which the hub keeps apart and gives a checksum of."""


@dataclass
class Hub:
    """What the hub has and how it behaves. `cut_at` ends a connection after so many bytes, once for each of them;
    `refusals` are status and error code by repository."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut_at: list[int] = field(default_factory=list)
    damaged: bool = False
    knows_ranges: bool = True
    token: str | None = None


def make_handler(hub: Hub) -> type[FakeHandler]:
    """The handler of a server that is this hub. It notes (method, path, Range, Authorization) of every request."""

    class Handler(FakeHandler):
        def get(self) -> None:
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            headers = self.headers
            self.server.seen.append((self.command, path, headers.get("Range"), headers.get("Authorization")))
            if path.startswith("/cdn/"):
                return self._content(path.removeprefix("/cdn/"))
            if path.startswith("/api/models/"):
                return self._api(path.removeprefix("/api/models/"))
            repo, _, rest = path[1:].partition("/resolve/")
            revision, _, file = rest.partition("/")
            content = hub.repositories.get(repo, {}).get(file)
            if content is None or revision not in (COMMIT, "main"):
                return self._refuse(404, "EntryNotFound")
            return self._resolve(repo, file, content)

        def _api(self, path: str) -> None:
            repo = "/".join(path.split("/")[:2])
            if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._refuse(401, "RepoNotFound")
            if repo in hub.refusals:
                return self._refuse(*hub.refusals[repo])
            if repo not in hub.repositories:
                return self._refuse(404, "RepoNotFound")
            rest = path.removeprefix(repo).strip("/").split("/")
            if rest[0] and rest[1] not in (COMMIT, "main"):
                return self._refuse(404, "RevisionNotFound")
            files = hub.repositories[repo].items()
            if rest[0] == "tree":
                entries = [{"type": "file", "path": name, **_entry(content, "oid")} for name, content in files]
                return self._json(entries)
            siblings = [{"rfilename": name, **_entry(content, "sha256")} for name, content in files]
            return self._json({"id": repo, "sha": COMMIT, "siblings": siblings})

        def _resolve(self, repo: str, file: str, content: bytes) -> None:
            """Large files are elsewhere: the answer is a redirect with their checksum and size."""
            large = len(content) >= LARGE_BYTES
            self.send_response(302 if large else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            if large:
                self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Linked-Size", str(len(content)))
                elsewhere = self.server.url.replace("127.0.0.1", "localhost")  # no token may be sent there
                self.send_header("Location", f"{elsewhere}/cdn/{repo}/{file}")
            self.send_header("Content-Length", "0" if large else str(len(content)))
            self.end_headers()
            if self.command == "GET" and not large:
                self.wfile.write(content)

        def _content(self, path: str) -> None:
            owner, model, file = path.split("/", 2)
            content = hub.repositories[f"{owner}/{model}"][file]
            start = 0
            asked = self.headers.get("Range")
            if asked is not None and hub.knows_ranges:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "GET":
                sent = content[start : hub.cut_at.pop(0)] if hub.cut_at else content[start:]
                self.wfile.write(bytes(byte ^ 1 for byte in sent) if hub.damaged else sent)
                self.close_connection = True

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _json(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    return Handler


def _entry(content: bytes, checksum: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    entry["blobId"] = entry["oid"]
    if len(content) >= LARGE_BYTES:
        entry["lfs"] = {checksum: hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry
