"""Files on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from jobs.models import File

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
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
        sha256=file.sha256,
    )
