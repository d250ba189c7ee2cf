"""`/v1/files` and `/v1/batches`, in OpenAI's shapes. A key sees its own files and batches alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, BinaryIO, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flover.errors import wrong_value
from flover.server.batches.batches import Batches
from flover.server.batches.objects import Batch, BatchBody, FileObject
from flover.server.batches.upload import Upload, read_form
from flover.server.errors import HttpError, Unavailable
from flover.server.http_keys import salt_of
from flover.server.read_request import read_request, state_of
from flover.server.responses import json_response

MAX_PAGE = {"files": 10_000, "batches": 100}
DEFAULT_PAGE = {"files": 10_000, "batches": 20}
CONTENT_BYTES = 2**16

O = TypeVar("O", FileObject, Batch)  # noqa: E741


def _batches(request: Request) -> Batches:
    batches = state_of(request).batches
    if batches is None:
        raise Unavailable("the model is being loaded")
    return batches


async def upload_file(request: Request) -> Response:
    """Keep a file for a batch."""
    batches, owner = _batches(request), salt_of(request.scope)
    form = await read_form(request)
    try:
        upload = Upload(form)
        store = batches.store
        file = await store.in_thread(lambda: store.add_file(owner, upload.name, "batch", upload.content, upload.expiry))
    finally:
        await form.close()
    return json_response(file)


async def list_files(request: Request) -> Response:
    """The client's files."""
    batches, owner, purpose = _batches(request), salt_of(request.scope), request.query_params.get("purpose")
    files = await batches.store.in_thread(lambda: batches.store.files_of(owner))
    return _page(request, "files", [file for file in files if purpose in (None, file.purpose)])


async def show_file(request: Request) -> Response:
    """What a file is."""
    return json_response(_batches(request).file_of(salt_of(request.scope), request.path_params["file_id"]))


async def delete_file(request: Request) -> Response:
    """Remove a file."""
    batches = _batches(request)
    file = batches.file_of(salt_of(request.scope), request.path_params["file_id"])
    await batches.store.in_thread(lambda: batches.store.delete_file(file.id))
    return json_response({"id": file.id, "object": "file", "deleted": True})


async def show_content(request: Request) -> Response:
    """A file's content."""
    batches = _batches(request)
    file = batches.file_of(salt_of(request.scope), request.path_params["file_id"])
    try:
        opened = await batches.store.in_thread(lambda: batches.store.path(file.id).open("rb"))
    except OSError as error:
        raise HttpError(404, f"the content of the file cannot be read: {error.strerror}", code="not_found") from None
    headers = {"Content-Length": str(file.bytes)}
    return StreamingResponse(_parts(batches, opened), media_type="application/octet-stream", headers=headers)


async def _parts(batches: Batches, file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while part := await batches.store.in_thread(lambda: file.read(CONTENT_BYTES)):
            yield part


async def create_batch(request: Request) -> Response:
    """Begin to answer a file."""
    if state_of(request).draining:
        raise Unavailable("the server is shutting down")
    body = await read_request(request, BatchBody)
    return json_response(await _batches(request).create(salt_of(request.scope), body))


async def list_batches(request: Request) -> Response:
    """The client's batches."""
    batches, owner = _batches(request), salt_of(request.scope)
    return _page(request, "batches", await batches.store.in_thread(lambda: batches.store.batches_of(owner)))


async def show_batch(request: Request) -> Response:
    """How far a batch is."""
    stored = _batches(request).stored_of(salt_of(request.scope), request.path_params["batch_id"])
    return json_response(stored.batch)


async def cancel_batch(request: Request) -> Response:
    """Stop a batch; what is answered stays."""
    return json_response(await _batches(request).cancel(salt_of(request.scope), request.path_params["batch_id"]))


def _page(request: Request, kind: str, found: Sequence[O]) -> Response:
    """The objects after the one named by `after`, the newest first unless `order` is asc."""
    query = request.query_params
    order, limit = query.get("order", "desc"), query.get("limit", str(DEFAULT_PAGE[kind]))
    if order not in ("asc", "desc"):
        raise wrong_value("order", '"asc" or "desc"', order)
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 6 and 1 <= int(limit) <= MAX_PAGE[kind]):
        raise wrong_value("limit", f"a whole number, 1 to {MAX_PAGE[kind]}", limit)
    ordered = sorted(found, key=lambda one: (one.created_at, one.id), reverse=order == "desc")
    after = query.get("after")
    if after:
        ids = [one.id for one in ordered]
        if after not in ids:
            raise HttpError(404, f"after names none of the {kind}", param="after", code="not_found")
        ordered = ordered[ids.index(after) + 1 :]
    page = ordered[: int(limit)]
    listed: dict[str, Any] = {"object": "list", "data": page, "has_more": len(page) < len(ordered)}
    listed |= {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return json_response(listed)


def _by_method(**handlers: Callable[[Request], Awaitable[Response]]) -> Any:
    """One route for several methods, so that a 405 names all of them."""

    async def handle(request: Request) -> Response:
        return await handlers[request.method](request)

    return {"endpoint": handle, "methods": list(handlers)}


ROUTES = [
    Route("/v1/files", **_by_method(GET=list_files, POST=upload_file)),
    Route("/v1/files/{file_id}", **_by_method(GET=show_file, DELETE=delete_file)),
    Route("/v1/files/{file_id}/content", show_content),
    Route("/v1/batches", **_by_method(GET=list_batches, POST=create_batch)),
    Route("/v1/batches/{batch_id}", show_batch),
    Route("/v1/batches/{batch_id}/cancel", cancel_batch, methods=["POST"]),
]
