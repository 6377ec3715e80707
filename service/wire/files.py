"""Files on the wire."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel

from jobs.models import File

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]

MAX_FILENAME = 255


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
    expires_at: int | None
    sha256: str


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def file_object(file: File) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.num_bytes,
        created_at=int(file.created_at),
        filename=file.filename,
        purpose=file.purpose,
        expires_at=None if file.expires_at is None else int(file.expires_at),
        sha256=file.sha256,
    )


def shown_name(filename: str | None) -> str:
    """The client's name for a file, only ever shown: on disk a file has its id."""
    name = PurePosixPath((filename or "").replace("\\", "/")).name.replace("\0", "")
    return name[:MAX_FILENAME] or "upload"
