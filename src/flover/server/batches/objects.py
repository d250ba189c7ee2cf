"""Files and batches as OpenAI's API has them, and as they are kept on disk."""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FILE_ID = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
COMPLETION_SECONDS = 24 * 3600
"""The one completion window, "24h"."""

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Purpose = Literal["batch", "batch_output"]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class FileObject(msgspec.Struct, kw_only=True):
    """A file. Times are seconds since 1970."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"


class RequestCounts(msgspec.Struct):
    """Requests of a batch: all, answered with 200, and answered otherwise or not at all."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchError(msgspec.Struct, kw_only=True):
    """Why a batch failed as a whole."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(msgspec.Struct):
    """A list of them."""

    data: list[BatchError]
    object: Literal["list"] = "list"


class Batch(msgspec.Struct, kw_only=True):
    """A batch. Times are seconds since 1970; those of what has not happened are None."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = msgspec.field(default_factory=RequestCounts)
    metadata: dict[str, str] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("failed", "completed", "expired", "cancelled")


class StoredFile(msgspec.Struct):
    """A file, and the salt of the key that it belongs to."""

    owner: str
    file: FileObject


class StoredBatch(msgspec.Struct):
    """A batch, the salt of the key that it belongs to, and the files that its answers are written to."""

    owner: str
    batch: Batch
    output_id: str
    error_id: str


class BatchBody(msgspec.Struct):
    """The body of `/v1/batches`."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: Metadata | None = None


def new_file_id() -> str:
    """The id of a new file."""
    return f"file-{uuid.uuid4().hex}"


def new_batch_id() -> str:
    """The id of a new batch."""
    return f"batch_{uuid.uuid4().hex}"
