"""Files sent in parts: begun, added to, completed or given up, and forgotten after an hour."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.errors import BadRequest, UploadNotFound, WrongState
from jobs.models import Upload, UploadPart

LIVES_SECONDS = 3600.0
MAX_PART_BYTES = 64 * 1024 * 1024
MAX_PARTS = 10_000


def add(session: Session, upload: Upload) -> Upload:
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def num_pending(session: Session, project_id: str) -> int:
    """How many of the project's are neither completed, given up nor over."""
    query = select(func.count()).where(
        Upload.project_id == project_id, Upload.status == "pending", Upload.expires_at > now()
    )
    return session.scalar(query) or 0


def get(session: Session, project_id: str, upload_id: str) -> Upload:
    """The upload, or UploadNotFound: another project's is not there either."""
    upload = session.get(Upload, upload_id, populate_existing=True)
    if upload is None or upload.project_id != project_id:
        raise UploadNotFound(upload_id)
    return upload


def add_part(session: Session, upload: Upload, part: UploadPart) -> UploadPart:
    """Record a part whose bytes are stored. Raises WrongState, or BadRequest past the limits."""
    _move(session, upload, "pending")
    query = select(func.count(), func.coalesce(func.sum(UploadPart.num_bytes), 0)).where(
        UploadPart.upload_id == upload.id
    )
    num_parts, num_bytes = session.execute(query).one()
    # Room for one part more than was announced: a part may be sent again.
    room = upload.num_bytes + MAX_PART_BYTES
    if num_parts >= MAX_PARTS or num_bytes + part.num_bytes > room:
        raise BadRequest(
            f"Upload {upload.id} was announced with {upload.num_bytes:,} bytes, and its parts "
            f"would come to {num_bytes + part.num_bytes:,} in {num_parts + 1:,} parts; the limits "
            f"are {room:,} bytes and {MAX_PARTS:,} parts.",
            param="data",
        )
    session.add(part)
    session.flush()
    session.refresh(part)
    return part


def check_parts(session: Session, upload: Upload, part_ids: list[str]) -> None:
    """Raise BadRequest unless the parts are the upload's and come to what was announced."""
    query = select(UploadPart.id, UploadPart.num_bytes).where(UploadPart.upload_id == upload.id)
    sizes = {part.id: part.num_bytes for part in session.execute(query)}
    for part_id in part_ids:
        if part_id not in sizes:
            raise BadRequest(f"Upload {upload.id} has no part {part_id!r}.", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise BadRequest("'part_ids' names a part twice.", param="part_ids")
    num_bytes = sum(sizes[part_id] for part_id in part_ids)
    if num_bytes != upload.num_bytes:
        raise BadRequest(
            f"The parts come to {num_bytes:,} bytes, and upload {upload.id} was announced with "
            f"{upload.num_bytes:,}.",
            param="part_ids",
        )


def check_pending(session: Session, upload: Upload) -> None:
    """Raise WrongState unless parts may still be added. Holds nothing."""
    is_live = select(Upload.id).where(*_is_pending(upload))
    if session.scalar(is_live) is None:
        raise _closed(upload)


def complete(session: Session, upload: Upload) -> None:
    """End it: the file is made in the same transaction. Raises WrongState."""
    _move(session, upload, "completed")
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))


def cancel(session: Session, upload: Upload) -> None:
    """Give it up. Raises WrongState."""
    _move(session, upload, "cancelled")
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload.id))


def expired(session: Session, *, limit: int) -> list[str]:
    """Uploads that nobody completed in time."""
    query = select(Upload.id).where(Upload.status == "pending", Upload.expires_at <= now())
    return list(session.scalars(query.limit(limit)))


def expire(session: Session, upload_id: str) -> None:
    """Close one of `expired`, whose bytes are gone."""
    session.execute(update(Upload).where(Upload.id == upload_id).values(status="expired"))
    session.execute(delete(UploadPart).where(UploadPart.upload_id == upload_id))


def _move(session: Session, upload: Upload, status: str) -> None:
    """Write the status of a pending upload, and with it take its row lock."""
    statement = (
        update(Upload)
        .where(*_is_pending(upload))
        .values(status=status)
        .returning(Upload.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        session.refresh(upload)
        raise _closed(upload)
    session.refresh(upload)


def _is_pending(upload: Upload) -> tuple[Any, ...]:
    return (Upload.id == upload.id, Upload.status == "pending", Upload.expires_at > now())


def _closed(upload: Upload) -> WrongState:
    status = "expired" if upload.status == "pending" else upload.status
    return WrongState(
        f"Upload {upload.id} is {status}: parts are added to, and a file is made of, a pending "
        "one. Begin a new upload.",
        param="upload_id",
    )
