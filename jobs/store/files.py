"""Uploaded files, as a project sees them."""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.errors import Expired, FileNotFound, NotFound
from jobs.models import File, Job
from jobs.status import TERMINAL
from jobs.store import departed
from jobs.store.pages import Page, page

# Of the artifact store.
FOLDER = "files"


def add(session: Session, file: File) -> File:
    session.add(file)
    session.flush()
    session.refresh(file)
    return file


def get(
    session: Session, project_id: str, file_id: str, *, param: str = "id", is_kept: bool = False
) -> File:
    """The file, or FileNotFound: another project's file is not there either.

    With `is_kept` nobody deletes it before the transaction ends (on SQLite: once it has written).
    """
    query = (
        select(File)
        .where(File.id == file_id, File.project_id == project_id, _is_live())
        .execution_options(populate_existing=True)
    )
    file = session.scalar(query.with_for_update(read=True) if is_kept else query)
    if file is None:
        raise _absent(session, project_id, file_id, param=param)
    return file


def _absent(session: Session, project_id: str, file_id: str, *, param: str) -> NotFound:
    is_over = select(File.id).where(File.id == file_id, File.project_id == project_id)
    if session.scalar(is_over) is None and not departed.has_expired(
        session, file_id, owner_id=project_id
    ):
        return FileNotFound(file_id, param=param)
    return Expired(
        f"File {file_id} has expired: the time that its `expires_after` gave it is over, or the "
        "time that this server keeps files which no job uses. Upload it again.",
        param=param,
    )


def list_page(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
    purpose: str | None = None,
) -> Page[File]:
    query = select(File).where(File.project_id == project_id, _is_live())
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    return page(
        session,
        query,
        keys=(File.created_at, File.id),
        after=(_position(session, project_id, after), after) if after else None,
        limit=limit,
        newest_first=newest_first,
    )


def _position(session: Session, project_id: str, file_id: str) -> float:
    """Where the list goes on after a file, which may have expired or been removed since."""
    query = select(File.created_at).where(File.id == file_id, File.project_id == project_id)
    position = session.scalar(query)
    if position is None:
        position = departed.position(session, file_id, owner_id=project_id)
    if position is None:
        raise FileNotFound(file_id, param="after")
    return position


def remove_unused(session: Session, file: File, *, is_expired: bool = False) -> list[str]:
    """Remove a file's row, unless unfinished jobs read it: then their ids, and nothing may commit.

    Removed before they are looked for: a job made meanwhile waits for this transaction. The bytes
    are the caller's to remove, after the commit.
    """
    file_id, project_id = file.id, file.project_id
    statement = delete(File).where(File.id == file_id).returning(File.created_at)
    created_at = session.scalar(statement)
    if created_at is not None:  # none is left where another request was faster
        departed.note(
            session,
            file_id,
            owner_id=project_id,
            position=created_at,
            is_expired=is_expired,
            left_behind=f"{FOLDER}/{file_id}",
        )
    query = select(Job.id).where(
        (Job.training_file == file_id) | (Job.validation_file == file_id),
        Job.status.not_in(TERMINAL),
    )
    return list(session.scalars(query.order_by(Job.id)))


def expired(session: Session, *, limit: int) -> list[File]:
    """Files that outlived the time their owner gave them, less those that unfinished jobs read."""
    query = select(File).where(File.expires_at <= now(), *_is_free(Job.status.not_in(TERMINAL)))
    return list(session.scalars(query.limit(limit)))


def unused(session: Session, *, seconds: float, kept_purpose: str, limit: int) -> list[File]:
    """Files for whose upload, and the last job that was made of them, it is longer than that.

    Less those that unfinished jobs read, and those of the purpose that is kept.
    """
    before = now() - seconds
    query = select(File).where(
        File.created_at < before,
        File.purpose != kept_purpose,
        *_is_free(or_(Job.status.not_in(TERMINAL), Job.created_at > before)),
    )
    return list(session.scalars(query.order_by(File.created_at).limit(limit)))


def _is_free(*needed: ColumnElement[bool]) -> tuple[ColumnElement[bool], ...]:
    """That no such job reads a file."""
    held_out = Job.validation_file.is_not(None)
    return (
        File.id.not_in(select(Job.training_file).where(*needed)),
        File.id.not_in(select(Job.validation_file).where(held_out, *needed)),
    )


def _is_live() -> ColumnElement[bool]:
    return or_(File.expires_at.is_(None), File.expires_at > now())
