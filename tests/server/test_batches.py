"""OpenAI's files and batches: with the official client, across restarts, within their limits, beside live requests."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from support.servers import ServerProcess, refused

from flover.errors import ConfigError
from flover.server.batches.ask import Reply
from flover.server.batches.objects import (
    Batch,
    FileObject,
    RequestCounts,
    Status,
    StoredBatch,
    new_batch_id,
    new_file_id,
)
from flover.server.batches.run import BatchLimits, BatchRun
from flover.server.batches.store import EXPIRY_SECONDS, Store
from flover.server.errors import HttpError


def request_line(name: str, **body: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"model": "toy", **body}})


def upload(client: openai.OpenAI, *lines: str) -> str:
    return client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch").id


def begin(client: openai.OpenAI, *lines: str) -> str:
    return client.batches.create(
        input_file_id=upload(client, *lines),
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"of": "a test"},
    ).id


def until(client: openai.OpenAI, batch_id: str, *states: str) -> Any:
    deadline = time.monotonic() + 20
    while (batch := client.batches.retrieve(batch_id)).status not in states:
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
    return batch


def answers(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    found = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


def test_the_official_client_sends_a_file_and_gets_answers_and_errors(server: ServerProcess) -> None:
    client = server.client()
    lines = [request_line(f"r{number}", prompt="abc", max_tokens=1 + number) for number in range(6)]
    batch_id = begin(client, *lines, "", request_line("wrong", prompt="abc", temperature=-5))
    batch = until(client, batch_id, "completed")
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (7, 6, 1)
    assert batch.metadata == {"of": "a test"} and batch.in_progress_at and batch.finalizing_at and batch.completed_at
    good, bad = answers(client, batch.output_file_id), answers(client, batch.error_file_id)
    assert good.keys() == {f"r{number}" for number in range(6)} and bad.keys() == {"wrong"}
    alone = client.completions.create(model="toy", prompt="abc", max_tokens=5)
    body = good["r4"]["response"]["body"]
    assert body["choices"][0]["text"] == alone.choices[0].text and good["r4"]["response"]["request_id"]
    assert body["usage"] == alone.usage.to_dict() and good["r4"]["error"] is None
    assert bad["wrong"]["response"]["status_code"] == 400 and "temperature" in str(bad["wrong"])
    listed = client.batches.list(limit=1)
    assert listed.data[0].id == batch_id
    names = {file.id: file for file in client.files.list()}
    assert names[batch.output_file_id].purpose == "batch_output" and names[batch.input_file_id].purpose == "batch"
    assert client.files.retrieve(batch.input_file_id).bytes == len("\n".join([*lines, "", ""])) + len(
        request_line("wrong", prompt="abc", temperature=-5)
    )
    for file_id in names:
        assert client.files.delete(file_id).deleted
    assert list(client.files.list()) == []
    with pytest.raises(openai.NotFoundError, match="there is no file"):
        client.files.retrieve(batch.input_file_id)


@pytest.mark.parametrize(
    ("lines", "said", "line"),
    [
        (["nothing"], "line 1", 1),
        ([request_line("a"), request_line("a")], "custom_id 'a' is that of line 1 too", 2),
        ([request_line("a", stream=True)], "a batch is not streamed", 1),
        ([request_line("a").replace("/v1/completions", "/v1/embeddings")], "url must be /v1/completions", 1),
        (["", "  "], "the file has no request", 1),
    ],
)
def test_a_wrong_line_fails_the_batch_and_is_named(
    server: ServerProcess, lines: list[str], said: str, line: int
) -> None:
    client = server.client()
    batch = until(client, begin(client, *lines), "failed")
    assert batch.errors.data[0].line == line and said in batch.errors.data[0].message and batch.failed_at
    assert batch.output_file_id is None and batch.error_file_id is None


def test_what_cannot_be_is_refused_by_name(server: ServerProcess) -> None:
    client, http = server.client(), server.http
    file = {"file": ("a.jsonl", b"{}")}
    assert "purpose must be" in refused(http.post("/v1/files", files=file, data={"purpose": "vision"}))["message"]
    assert refused(http.post("/v1/files", files=file, data={"purpose": "batch", "x": "1"}))["param"] == "x"
    assert "file is required" in refused(http.post("/v1/files", files={"purpose": (None, "batch")}))["message"]
    assert http.post("/v1/files", content=b"{}", headers={"Content-Type": "application/json"}).status_code == 415
    broken = http.post("/v1/files", content=b"--x\r\n", headers={"Content-Type": "multipart/form-data"})
    assert "boundary" in refused(broken)["message"]
    expiry = {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "7"}
    assert "3600 to" in refused(http.post("/v1/files", files=file, data=expiry))["message"]
    assert "limit must be" in refused(http.get("/v1/batches?limit=0"))["message"]
    for path in ("/v1/files/file-1", "/v1/files/..%2f..%2fetc", "/v1/batches/batch_1", "/v1/files/file-1/content"):
        assert http.get(path).status_code == 404
    wrong = {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"}
    assert refused(server.post("/v1/batches", wrong), 404, "not_found_error")["param"] == "input_file_id"
    assert "24h" in refused(server.post("/v1/batches", wrong | {"completion_window": "1h"}))["message"]
    assert "/v1/embeddings" in refused(server.post("/v1/batches", wrong | {"endpoint": "/v1/images"}))["message"]
    assert refused(server.post("/v1/batches", wrong | {"metadata": {"a": 1}}))["param"] == "metadata"
    done = until(client, begin(client, request_line("a", prompt="a", max_tokens=1)), "completed")
    assert "is completed" in refused(http.post(f"/v1/batches/{done.id}/cancel"), 409)["message"]


def test_limits_of_bytes_and_requests_and_a_key_sees_its_own(start: Callable[..., ServerProcess]) -> None:
    limits = {"max_file_bytes": 4000, "max_stored_bytes": 10_000, "max_batch_requests": 3, "max_body_bytes": 2000}
    server = start(server={"limits": limits, "api_key": ["one", "two"]})
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="one", max_retries=0)
    with pytest.raises(openai.APIStatusError, match="--max-file-bytes") as error:
        upload(client, "x" * 40_000)
    assert error.value.status_code == 413
    kept = upload(client, "x" * 3900)
    with pytest.raises(openai.APIStatusError, match="--max-stored-bytes"):
        upload(client, "x" * 3900)
    assert "has more than 2000 bytes" in until(client, _batch_of(client, kept), "failed").errors.data[0].message
    client.files.delete(kept)
    batch = until(client, begin(client, *(request_line(f"r{number}") for number in range(4))), "failed")
    assert "--max-batch-requests 3" in batch.errors.data[0].message
    full = [request_line(f"r{number}", prompt="a" * 900, echo=True, max_tokens=1) for number in range(3)]
    batch = until(client, begin(client, *full), "failed")
    assert "--max-stored-bytes" in batch.errors.data[0].message and batch.request_counts.completed == 1
    assert len(answers(client, batch.output_file_id)) == 1
    two = openai.OpenAI(base_url=f"{server.url}/v1", api_key="two", max_retries=0)
    assert list(two.files.list()) == [] and list(two.batches.list()) == [] and list(client.batches.list())
    for of_batch in (two.batches.retrieve, two.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            of_batch(batch.id)
    for of_file in (two.files.content, two.files.delete, two.files.retrieve, partial(_batch_of, two)):
        with pytest.raises(openai.NotFoundError):
            of_file(batch.output_file_id)


def _batch_of(client: openai.OpenAI, file_id: str) -> str:
    return client.batches.create(input_file_id=file_id, endpoint="/v1/completions", completion_window="24h").id


def test_a_batch_outlives_its_engine_and_its_server(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """A killed engine costs nothing. A killed server's batch goes on in the next server on the same directory: what was
    answered stays, byte for byte, and each request is answered once. Another server does not get the directory."""
    folder = tmp_path / "batches"
    settings = {"engine": {"max_num_seqs": 2}, "server": {"batch_dir": str(folder)}}
    first = start("--delay", "0.004", **settings)
    client = first.client()
    batch_id = begin(client, *(request_line(f"r{number}", prompt="abc", max_tokens=20) for number in range(12)))
    first.until(lambda: client.batches.retrieve(batch_id).request_counts.completed >= 2)
    first.engine.kill()
    first.until(lambda: client.batches.retrieve(batch_id).request_counts.completed >= 4)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    (written,) = [path for path in (folder / "files").iterdir() if path.name in _outputs(folder)]
    before = written.read_bytes().rpartition(b"\n")[0]
    written.write_bytes(before + b'\n{"id": "cut sho')
    second = start(**settings)
    client = second.client()
    batch = until(client, batch_id, "completed")
    assert batch.request_counts.completed == 12 and batch.request_counts.failed == 0
    after = client.files.content(batch.output_file_id).content
    assert after.startswith(before + b"\n") and len(answers(client, batch.output_file_id)) == 12
    with pytest.raises(ConfigError, match=f"--batch-dir {folder} is in use by another server"):
        Store(str(folder), 2**20, time.time)


def _outputs(folder: Path) -> set[str]:
    return {json.loads(path.read_text())["output_id"] for path in (folder / "batches").glob("*.json")}


def test_a_cancelled_batch_keeps_its_answers_and_leaves_the_engine(server: ServerProcess) -> None:
    client = server.client()
    lines = [request_line(f"r{number}", prompt="abc", max_tokens=1 if number < 2 else 2000) for number in range(9)]
    batch_id = begin(client, *lines)
    server.until(lambda: client.batches.retrieve(batch_id).request_counts.completed == 2)
    with pytest.raises(openai.ConflictError, match="cancel the batch first"):
        client.files.delete(client.batches.retrieve(batch_id).input_file_id)
    assert client.batches.cancel(batch_id).status in ("cancelling", "cancelled")
    batch = until(client, batch_id, "cancelled")
    assert answers(client, batch.output_file_id).keys() == {"r0", "r1"} and batch.error_file_id is None
    assert batch.cancelling_at and batch.cancelled_at
    server.until(lambda: server.metric("num_requests_running") == 0)


def test_files_expire_and_rubbish_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file's time ends, but not while an unfinished batch reads it; what a crash left is removed at the next start; a
    document that cannot be read is said and left."""
    now = [1e9]
    store = Store(str(tmp_path), 1000, lambda: now[0])
    with pytest.raises(HttpError, match="--max-stored-bytes 1000"):
        store.add_file("", "large", "batch", io.BytesIO(bytes(1001)), 5)
    used, free = (store.add_file("", name, "batch", io.BytesIO(b"{}"), 5) for name in ("used", "free"))
    batch = Batch(id=f"batch_{0:032x}", endpoint="/v1/completions", input_file_id=used.id, created_at=0, expires_at=1)
    store.save(StoredBatch("", batch, f"file-{1:032x}", f"file-{2:032x}"))
    store.append("", f"file-{1:032x}", b"kept")
    store.append("", f"file-{3:032x}", b"rubbish")
    now[0] += 6
    assert store.files_of("") == [used] and free.id not in store.files
    (tmp_path / "batches" / f"batch_{4:032x}.json").write_text("{")
    store.close()
    store = Store(str(tmp_path), 1000, lambda: now[0])
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == sorted(
        [used.id, f"{used.id}.json", f"file-{1:032x}"]
    )
    assert f"batch_{4:032x}.json cannot be read" in caplog.text
    batch.status = "cancelled"
    store.save(StoredBatch("", batch, f"file-{1:032x}", f"file-{2:032x}"))
    assert store.files_of("") == []
    now[0] += EXPIRY_SECONDS
    assert store.batches_of("") == []
    store.close()


def test_a_key_has_at_most_what_it_leaves_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of unfinished batches, stored bytes and files, also after a restart; a server's only key may have them all. Of
    batches that have ended, the key with the most of them loses the oldest."""
    monkeypatch.setattr("flover.server.batches.store.MAX_FILES", 20)
    monkeypatch.setattr("flover.server.batches.store.MAX_BATCHES", 100)
    store = Store(str(tmp_path), 8000, time.time)

    def take(owner: str, status: Status = "in_progress") -> Batch:
        times = {"created_at": int(time.time()), "expires_at": 0}
        batch = Batch(id=new_batch_id(), endpoint="/v1/completions", input_file_id="file-1", status=status, **times)
        store.add_batch(StoredBatch(owner, batch, f"file-{batch.id[6:]}", new_file_id()))
        return batch

    def count(owner: str, take: Callable[[str], Any]) -> tuple[int, str]:
        for number in range(99):
            try:
                take(owner)
            except HttpError as error:
                return number, error.message
        raise AssertionError

    history = [take("old", "completed") for _ in range(3)]
    had = "this API key has {} unfinished batches, and 1 more would exceed the {} that are left of 64"
    assert count("heavy", take) == (32, had.format(32, 32))
    store.append("heavy", list(store.batches.values())[-1].output_id, bytes(3000))
    store.close()
    store = Store(str(tmp_path), 8000, time.time)
    assert count("heavy", take) == (0, had.format(32, 32))
    assert [count(owner, take)[0] for owner in "abcdef"] == [16, 8, 4, 2, 1, 1]
    assert count("g", take) == (0, "there are 64 unfinished batches of all clients, and 1 more would exceed 64")
    for batch in list(store.batches.values()):
        batch.batch.status = "failed"
    assert count("", take)[0] == 64 and [one for one in history if one.id in store.batches] == history

    def keep(owner: str, size: int = 1) -> FileObject:
        return store.add_file(owner, "a.jsonl", "batch", io.BytesIO(bytes(size)), 3600)

    taken, reason = count("heavy", partial(keep, size=2001))
    assert taken == 0 and "3000 bytes, and 2001 more would exceed the 5000 that are left of --max-stored-b" in reason
    taken, reason = count("heavy", keep)
    assert taken == 10 and reason.startswith("this API key has 10 files, and 1 more would exceed the 10 ")
    assert count("b", partial(keep, size=2500))[0] == 1
    store.close()


def test_what_is_not_computed_in_time_says_so(tmp_path: Path) -> None:
    """The window ends while a request that the server has no room for is tried again."""
    store, replies = Store(str(tmp_path), 10_000, time.time), {"a": 200, "b": 429, "c": 429, "late": 429}

    async def ask(url: str, body: bytes, owner: str) -> Reply:
        await asyncio.sleep(0)
        name = json.loads(body)["prompt"]
        told = b'{"error": {"code": "deadline_exceeded"}}' if name == "late" else b"{}"
        return Reply(status=replies[name], request_id="id", retry_after=0.01, body=told)

    async def run() -> Batch:
        lines = "\n".join(request_line(name, prompt=name) for name in replies).encode()
        file = store.add_file("", "in", "batch", io.BytesIO(lines), 3600)
        soon = int(time.time()) + 1
        batch = Batch(
            id=new_batch_id(), endpoint="/v1/completions", input_file_id=file.id, created_at=0, expires_at=soon
        )
        stored = StoredBatch("", batch, new_file_id(), new_file_id())
        limits = BatchLimits(max_requests=9, max_line_bytes=999, concurrency=3)
        await BatchRun(stored, store, limits, asyncio.Semaphore(3), ask=ask).run()
        return batch

    batch = asyncio.run(run())
    assert batch.status == "expired" and batch.expired_at and batch.request_counts == RequestCounts(4, 1, 3)
    assert batch.error_file_id is not None
    errors = [json.loads(line) for line in store.path(batch.error_file_id).read_text().splitlines()]
    late = errors.pop(0)
    assert (late["custom_id"], late["response"]["status_code"]) == ("late", 429)
    assert [(one["custom_id"], one["error"]["code"], one["response"]) for one in errors] == [
        ("b", "batch_expired", None),
        ("c", "batch_expired", None),
    ]
    store.close()
