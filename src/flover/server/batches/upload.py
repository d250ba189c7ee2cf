"""Uploads: files are written to disk as they come, so they may be longer than other bodies."""

from __future__ import annotations

from collections import Counter

from starlette.datastructures import FormData, MutableHeaders, UploadFile
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flover.errors import RequestError, shown, wrong_value
from flover.server.batches.shares import no_room
from flover.server.batches.store import EXPIRY_SECONDS
from flover.server.errors import HttpError
from flover.server.http_body import check_headers, refuse, too_long
from flover.server.http_keys import salt_of
from flover.server.http_paths import UPLOAD_PATH

MAX_UPLOADS = 4
"""At once; more get a 429."""
FORM_BYTES = 2**14
"""What a form may add to its file."""
LEAST_EXPIRY = 3600
MAX_NAME = 256


class UploadLimit:
    """Passes uploads to `app` as they arrive, within their limits, and all else to `others`."""

    def __init__(self, app: ASGIApp, others: ASGIApp, max_file_bytes: int) -> None:
        self._app, self._others = app, others
        self._most = max_file_bytes
        self._open: Counter[str] = Counter()
        """Uploads of each key."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != UPLOAD_PATH or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        owner = salt_of(scope)
        try:
            check_headers(scope, self._most + FORM_BYTES, "--max-file-bytes")
            if reason := no_room("uploads", owner, self._open, MAX_UPLOADS):
                raise HttpError(429, reason, code="rate_limit_exceeded")
        except HttpError as error:
            await refuse(error, scope, receive, send)
            return
        self._open[owner] += 1
        try:
            await self._pass(scope, receive, send)
        finally:
            self._open[owner] -= 1

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        received, complete = 0, False

        async def receive_counted() -> Message:
            nonlocal received, complete
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most + FORM_BYTES:
                raise too_long(self._most, "--max-file-bytes")
            complete = complete or not message.get("more_body", False)
            return message

        async def send_closing(message: Message) -> None:
            if message["type"] == "http.response.start" and not complete:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive_counted, send_closing)


class Upload:
    """The fields of an uploaded file. Raises `RequestError`."""

    def __init__(self, form: FormData) -> None:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise RequestError("file is required: a form field that is a file", param="file")
        if purpose != "batch":
            raise wrong_value("purpose", '"batch"', "" if purpose is None else str(purpose))
        unknown = set(form) - {"file", "purpose", "expires_after[anchor]", "expires_after[seconds]"}
        if unknown:
            raise RequestError(f"{shown(min(unknown))} is not a field of an upload", param=min(unknown)[:64])
        self.content = file.file
        self.name = (file.filename or "file")[:MAX_NAME]
        self.expiry = _expiry(form)


def _expiry(form: FormData) -> int:
    """Seconds that the file is to be kept."""
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return EXPIRY_SECONDS
    if anchor != "created_at":
        raise wrong_value("expires_after.anchor", '"created_at"', "" if anchor is None else str(anchor))
    text = str(seconds)
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and LEAST_EXPIRY <= int(text) <= EXPIRY_SECONDS):
        wanted = f"a whole number of seconds, {LEAST_EXPIRY} to {EXPIRY_SECONDS}"
        raise wrong_value("expires_after.seconds", wanted, "" if seconds is None else text)
    return int(text)


async def read_form(request: Request) -> FormData:
    """The form of an upload, its file on disk if it is large; the caller closes it. Raises `HttpError`."""
    sent = request.headers.get("content-type", "")
    if sent.partition(";")[0].strip().lower() != "multipart/form-data":
        raise HttpError(415, f"a file is sent as Content-Type: multipart/form-data, got {shown(sent)}")
    return await request.form(max_files=1, max_fields=8, max_part_size=FORM_BYTES)
