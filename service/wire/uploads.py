"""Uploads in parts on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from jobs.models import Upload, UploadPart
from service.wire.expiry import ExpiresAfter
from service.wire.files import FileObject, Purpose

MAX_UPLOAD_BYTES = 8 * 1024**3
# Types that JSONL has on machines which have no name for it.
UNSAID = ("text/plain", "application/octet-stream")


class CreateUploadRequest(BaseModel):
    """The body of POST /v1/uploads: the file that is to come."""

    model_config = ConfigDict(extra="forbid")

    bytes: Annotated[int, Field(strict=True, ge=1, le=MAX_UPLOAD_BYTES)]
    filename: Annotated[str, Field(min_length=1)]
    purpose: Purpose
    mime_type: Annotated[str, Field(min_length=1, max_length=255)]
    expires_after: ExpiresAfter | None = None

    @field_validator("mime_type")
    @classmethod
    def _is_of_its_purpose(cls, value: str, info: ValidationInfo) -> str:
        kind = value.partition(";")[0].strip().lower()
        if info.data.get("purpose") == "fine-tune" and "json" not in kind and kind not in UNSAID:
            raise ValueError("a file of purpose 'fine-tune' is JSONL: announce it as 'text/jsonl'")
        return value


class CompleteUploadRequest(BaseModel):
    """The body of POST /v1/uploads/{id}/complete: the parts in the order of their bytes."""

    model_config = ConfigDict(extra="forbid")

    part_ids: Annotated[list[str], Field(min_length=1)]
    md5: str | None = None


class UploadObject(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None


class PartObject(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def upload_object(upload: Upload, file: FileObject | None = None) -> UploadObject:
    return UploadObject.model_validate(
        {
            "id": upload.id,
            "bytes": upload.num_bytes,
            "created_at": int(upload.created_at),
            "expires_at": int(upload.expires_at),
            "filename": upload.filename,
            "purpose": upload.purpose,
            "status": upload.status,
            "file": file,
        }
    )


def part_object(part: UploadPart) -> PartObject:
    return PartObject(id=part.id, created_at=int(part.created_at), upload_id=part.upload_id)
