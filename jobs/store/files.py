"""Uploaded files, as a project sees them."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from jobs.errors import FileNotFound
from jobs.models import File, Job
from jobs.status import TERMINAL
from jobs.store.pages import Page, page


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
    file = session.get(
        File,
        file_id,
        populate_existing=True,
        with_for_update={"read": True} if is_kept else None,
    )
    if file is None or file.project_id != project_id:
        raise FileNotFound(file_id, param=param)
    return file


def list_page(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    newest_first: bool = True,
    purpose: str | None = None,
) -> Page[File]:
    query = select(File).where(File.project_id == project_id)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    cursor = get(session, project_id, after, param="after") if after else None
    return page(
        session,
        query,
        keys=(File.created_at, File.id),
        after=(cursor.created_at, cursor.id) if cursor else None,
        limit=limit,
        newest_first=newest_first,
    )


def users_of(session: Session, file_id: str) -> list[str]:
    """Unfinished jobs that still read the file."""
    query = select(Job.id).where(
        (Job.training_file == file_id) | (Job.validation_file == file_id),
        Job.status.not_in(TERMINAL),
    )
    return list(session.scalars(query.order_by(Job.id)))


def remove(session: Session, project_id: str, file_id: str) -> None:
    session.execute(delete(File).where(File.id == file_id, File.project_id == project_id))
