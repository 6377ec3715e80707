"""Append-only events of a job, numbered without gaps."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.models import Event, Job, Json
from jobs.store.pages import Page, page


def add(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    type: str = "message",
    data: Json | None = None,
) -> None:
    """Append an event in the caller's transaction.

    The counter lives on the job's row: its lock puts concurrent writers in order, and a rollback
    gives the number back, so the sequence has no gaps.
    """
    seq = session.scalar(
        update(Job)
        .where(Job.id == job_id)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq)
        .execution_options(synchronize_session=False)
    )
    session.add(Event(job_id=job_id, seq=seq, level=level, type=type, message=message, data=data))
    session.flush()


def list_page(
    session: Session,
    job_id: str,
    *,
    after_seq: int | None,
    limit: int,
    newest_first: bool = True,
) -> Page[Event]:
    return page(
        session,
        select(Event).where(Event.job_id == job_id),
        keys=(Event.seq,),
        after=(after_seq,) if after_seq is not None else None,
        limit=limit,
        newest_first=newest_first,
    )
