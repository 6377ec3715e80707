"""A job's row as its owner sees it: made, listed, cancelled, paused, resumed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from jobs.db import now
from jobs.errors import JobNotFound, WrongState
from jobs.models import Job, JobMetadata
from jobs.monitoring import ENDS
from jobs.status import HELD, TERMINAL, Reason, Status, sources
from jobs.store import answers, checkpoints, events, tallies
from jobs.store.pages import Page, page


def add(session: Session, job: Job) -> Job:
    """Store a new job; its first event in the same transaction."""
    session.add(job)
    session.flush()
    labels = job.spec.get("metadata") or {}
    session.add_all(JobMetadata(job_id=job.id, key=key, value=labels[key]) for key in labels)
    session.refresh(job)
    events.add(session, job.id, f"Created fine-tuning job: {job.id}")
    return job


def get(session: Session, project_id: str, job_id: str, *, is_locked: bool = False) -> Job:
    """The job, or JobNotFound: another project's job is not there either.

    With `is_locked` nobody else writes its row until the transaction ends (PostgreSQL; on SQLite
    that begins with the transaction's first write).
    """
    job = session.get(
        Job, job_id, populate_existing=True, with_for_update=True if is_locked else None
    )
    if job is None or job.project_id != project_id:
        raise JobNotFound(job_id)
    return job


def list_page(
    session: Session,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    metadata: dict[str, str] | None = None,
    is_unlabelled: bool = False,
) -> Page[Job]:
    """Newest first; with `metadata` those that carry all of it, or those that carry none."""
    query = select(Job).where(Job.project_id == project_id)
    for key, value in (metadata or {}).items():
        query = query.where(
            exists().where(
                JobMetadata.job_id == Job.id, JobMetadata.key == key, JobMetadata.value == value
            )
        )
    if is_unlabelled:
        query = query.where(~exists().where(JobMetadata.job_id == Job.id))
    cursor = get(session, project_id, after) if after else None
    return page(
        session,
        query,
        keys=(Job.created_at, Job.id),
        after=(cursor.created_at, cursor.id) if cursor else None,
        limit=limit,
    )


def is_any_active(session: Session) -> bool:
    """Whether a job of any project runs, or waits for a device."""
    query = select(Job.id).where(Job.status.in_((*HELD, Status.QUEUED))).limit(1)
    return session.scalar(query) is not None


def move(
    session: Session,
    job_id: str,
    target: Status,
    *,
    where: tuple[Any, ...] = (),
    **values: Any,
) -> bool:
    """Enter `target` if the transition table allows it from where the job stands, in one UPDATE.

    False when it does not (or `where` does not hold), and then nothing changed. With the end, the
    checkpoints that are not kept leave the list: whoever sees the end sees what stays.
    """
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(sources(target)), *where)
        .values(status=target, **values)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if session.scalar(statement) is None:
        return False
    if target in TERMINAL:
        reason = str(values.get("reason") or "")
        tallies.of(session).count(ENDS, state=target.value, reason=reason)
        checkpoints.retire(session, job_id, is_over=True)
    return True


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Ask a held job to stop; end any other unfinished one at once."""
    # Locked, so that a job which goes from one kind to the other meanwhile is not missed.
    job = get(session, project_id, job_id, is_locked=True)
    waiting = Job.status.in_((Status.VALIDATING_FILES, Status.QUEUED, Status.PAUSED))
    if move(
        session,
        job_id,
        Status.CANCELLED,
        where=(waiting,),
        reason=Reason.CANCELLED_BY_USER,
        cancel_requested_at=now(),
        finished_at=now(),
        lease_owner=None,  # a validator's
        lease_expires_at=None,
    ):
        events.add(session, job_id, "Fine-tuning job cancelled")
        answers.forget(session, job_id)
        return get(session, project_id, job_id)
    request = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_(HELD))
        .values(cancel_requested_at=func.coalesce(Job.cancel_requested_at, now()))
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    is_first = job.cancel_requested_at is None
    if session.scalar(request) is None:
        job = get(session, project_id, job_id)
        raise WrongState(f"Job {job_id} is already {job.status} and cannot be cancelled.")
    if is_first:
        events.add(session, job_id, "Cancel requested: the job stops after its last finished step")
    return get(session, project_id, job_id)


def pause(session: Session, project_id: str, job_id: str) -> Job:
    """Ask a running job to save its state and free its device."""
    job = get(session, project_id, job_id)
    if move(session, job_id, Status.PAUSING, pause_requested_at=now()):
        events.add(session, job_id, "Pause requested: the job stops after its last finished step")
        return get(session, project_id, job_id)
    job = get(session, project_id, job_id)
    if job.status in (Status.PAUSING, Status.PAUSED):
        return job
    raise WrongState(f"Job {job_id} is {job.status}; only a running job can be paused.")


def resume(session: Session, project_id: str, job_id: str) -> Job:
    """Put a paused job back in the queue; it goes on from its last finished step."""
    get(session, project_id, job_id)
    paused = Job.status == Status.PAUSED
    if move(
        session,
        job_id,
        Status.QUEUED,
        where=(paused,),
        reason=None,
        pause_requested_at=None,
        spent={},  # A resume grants the limits once more.
        claimable_at=now(),
        rung_at=None,
    ):
        events.add(session, job_id, "Fine-tuning job resumed: waiting for a worker")
        return get(session, project_id, job_id)
    job = get(session, project_id, job_id)
    raise WrongState(f"Job {job_id} is {job.status}; only a paused job can be resumed.")
